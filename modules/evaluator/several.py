"""Several evaluators in one experiment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modules.evaluator.base import AnyEvaluator


class Several:
    """Evaluators by name. The metrics of each get its name in front: ``val/NAME/accuracy_top1``.

    The engine asks each evaluator in the same pass over the data, so the model runs once.
    """

    is_component = True

    def __init__(self, evaluators: Mapping[str, AnyEvaluator]) -> None:
        """
        Args:
            evaluators: by name. They may also be metrics of torchmetrics.
        """
        if not evaluators:
            raise ValueError(
                "Several wants at least one evaluator, but evaluators is empty; add one, such as "
                "`evaluators: {top5: {_target_: modules.evaluator.accuracy.Accuracy, top_k: [5]}}`"
            )
        if wrong := [name for name in evaluators if not str(name).isidentifier()]:
            raise ValueError(
                f"Several: {wrong[0]!r} is not a valid name; use letters, digits and _, with a letter first"
            )
        if nested := [name for name, each in evaluators.items() if isinstance(each, Several)]:
            raise ValueError(f"Several: {nested[0]} is a Several itself; list its evaluators here")
        self.evaluators: dict[str, Any] = dict(evaluators)
