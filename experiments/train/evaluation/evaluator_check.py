"""Tries an evaluator on the untrained model, so that problems are reported before training."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from experiments.components.assemble import Components
from experiments.components.model_signature import ModelInterface, infer_interface
from experiments.components.unsaved_state import find_changes
from experiments.trial.parameters import clean_key
from modules.data.base import Tree
from modules.evaluator.base import AnyEvaluator, MakesArtifacts, ModelEvaluator, renamed_methods
from modules.parallel.cost_model.compatibility import find_evaluator_incompatibilities
from modules.parallel.cost_model.layout import ParallelLayout
from modules.task.base import Evaluation, StepContext


def dry_run(components: Components, layout: ParallelLayout) -> tuple[list[str], ModelInterface | None]:
    """Evaluate two empty examples with the untrained model, which is not changed.

    Returns:
        The names of the metrics, and the model's inputs and outputs; None if the task does not say what its outputs are.

    Raises:
        ValueError: the evaluator does not fit the model's outputs, the layout or the contract.
        DataError: the evaluator reads files, and one is missing or damaged.
    """
    batch = components.data.example(2)
    model, task, evaluator = components.setup.model, components.setup.get_task(), components.evaluator
    problems = [
        *renamed_methods(evaluator),
        *find_evaluator_incompatibilities(evaluator, layout),
        *_not_callable(evaluator),
    ]
    if problems:
        raise ValueError("; ".join(problems))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        evaluation = task.evaluate(model.eval(), batch, StepContext(0, 1, is_training=False))
        if isinstance(evaluator, ModelEvaluator):
            evaluator.setup(components.data)
        elif evaluation.outputs is None:
            raise ValueError(
                f"evaluator {type(evaluator).__name__} compares outputs with targets, and task {type(task).__name__} gives it "
                "none; return them from the task's evaluate(), or use evaluator=none"
            )
        metrics = _measure(evaluator, model, batch, evaluation)
        if not type(evaluator).__module__.startswith("modules."):  # those of Lathe keep nothing
            known = (components.data, model, *model.modules())
            _check_state(evaluator, known, lambda: _measure(evaluator, model, batch, evaluation))
        model.train()
    names = [*evaluation.metrics, *metrics]
    _check_names(evaluator, names)
    has_interface = evaluation.outputs is not None and isinstance(batch, tuple)
    return names, infer_interface(batch[0], evaluation.outputs) if has_interface else None


def _measure(evaluator: AnyEvaluator, model: nn.Module, batch: Tree, evaluation: Evaluation) -> Mapping[str, float]:
    if isinstance(evaluator, ModelEvaluator):
        sums = _check_sums(evaluator, evaluator.update_with_model(model, batch))
        return as_numbers(evaluator, evaluator.compute_with_model(model, sums))
    sums = _check_sums(evaluator, evaluator.update(evaluation.outputs, evaluation.targets))
    return as_numbers(evaluator, evaluator.compute(sums))


def _check_state(evaluator: AnyEvaluator, known: Sequence[object], measure: Callable[[], object]) -> None:
    """Refuse an evaluator that changes when it measures the same again, such as one that counts or keeps a history.

    Raises:
        ValueError: it has such a state.
    """
    if changed := find_changes(evaluator, "evaluator", measure, known):
        raise ValueError(
            f"evaluator {type(evaluator).__name__}: {', '.join(changed)} changes in each evaluation, but no checkpoint holds "
            "it, so a resumed run would go on differently; keep it in a callback, or, if no metric depends on its earlier "
            'values, name it in its class: `recomputed = ("cache",)`'
        )


def as_numbers(evaluator: object, metrics: Any) -> dict[str, float]:
    """Convert what an evaluator computed to plain numbers, by name.

    Raises:
        ValueError: it is not a dict, or a name is not text, or a value is not a number.
    """
    evaluator_name = type(evaluator).__name__
    if not isinstance(metrics, Mapping):
        raise ValueError(
            f"evaluator {evaluator_name} computes {_describe(metrics)}; return a dict of numbers, such as "
            '{"accuracy_top1": 0.97}'
        )
    problems = [
        f"evaluator {evaluator_name}: the name {name!r} of a metric is {_describe(name)}; write a text that is not empty"
        for name in metrics
        if not isinstance(name, str) or not name.strip()
    ]
    problems += [
        f"evaluator {evaluator_name}: {name} is {_describe(value)} and not a number; {_number_hint(value)}"
        for name, value in metrics.items()
        if not isinstance(value, Real)
    ]
    if problems:
        raise ValueError("; ".join(problems))
    return {name: float(value) for name, value in metrics.items()}


def _number_hint(value: object) -> str:
    return "write float(...) around it" if hasattr(value, "item") else "return float('nan') where there is no value"


def _describe(value: object) -> str:
    if value is None or value == "":
        return "None" if value is None else "empty"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _check_sums(evaluator: object, sums: Any) -> Tensor:
    """Return the sums of a batch.

    Raises:
        ValueError: they are not a vector, so that they cannot be added over batches and ranks.
    """
    if isinstance(sums, Tensor) and sums.dim() == 1:
        return sums
    shown = f"a tensor of shape {list(sums.shape)}" if isinstance(sums, Tensor) else _describe(sums)
    raise ValueError(
        f"evaluator {type(evaluator).__name__}: its sums of a batch are {shown}; return one vector, such as "
        "torch.stack([total, count])"
    )


def _check_names(evaluator: object, names: Sequence[str]) -> None:
    """Refuse names that MLflow does not distinguish.

    Raises:
        ValueError: two different names become the same one.
    """
    first: dict[str, str] = {}
    for name in names:
        stored = clean_key(f"val/{name}").removeprefix("val/")
        if (other := first.setdefault(stored, name)) != name:
            raise ValueError(
                f"evaluator {type(evaluator).__name__}: the metrics {other} and {name} are both {stored} in MLflow, which "
                "knows only letters, digits and _ - . : / and spaces; rename one of them"
            )


def _not_callable(evaluator: object) -> list[str]:
    """Problems of the signature of `artifacts`. It is not called: generating a text or a table can take minutes."""
    if not isinstance(evaluator, MakesArtifacts):
        return []
    try:
        inspect.signature(evaluator.artifacts).bind("model", "split")
    except TypeError as err:
        return [
            f"evaluator {type(evaluator).__name__}: artifacts cannot be called as artifacts(model, split) ({err}); "
            "write `def artifacts(self, model, split)`, or give the method another name"
        ]
    except ValueError:  # a method written in C has no signature
        return []
    return []
