"""Tries an evaluator on the untrained model, so that problems are reported before training."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from experiments.components.assemble import Components
from experiments.components.model_signature import ModelInterface, add_reader, infer_interface
from experiments.components.unsaved_state import find_changes
from experiments.trial.parameters import clean_key
from modules.data.base import Tree
from modules.evaluator.base import Evaluator, MakesArtifacts, ModelEvaluator, list_evaluators, renamed_methods
from modules.parallel.cost_model.compatibility import find_evaluator_incompatibilities
from modules.parallel.cost_model.layout import ParallelLayout
from modules.task.base import Evaluation, StepContext

DOMAIN_ERROR: Final = "math domain error"
"""Of Python's `math`, such as of the logarithm of 0."""


class DryRun(NamedTuple):
    """What an evaluation of two empty examples tells."""

    names: list[str]
    """Of the metrics."""
    interface: ModelInterface | None
    """The model's inputs and outputs; None if the task does not say what its outputs are."""
    has_all_names: bool
    """False if an evaluator divides by zero because the examples are all alike; the first evaluation then gives its names."""


def check_evaluator(
    components: Components, layout: ParallelLayout, best_metric: str | None = None
) -> ModelInterface | None:
    """Evaluate two empty examples of the data and of each evaluation set.

    Returns:
        The model's inputs and outputs for the data, as `DryRun.interface`.

    Raises:
        ValueError: the evaluator does not fit, two metrics have the same name, or there is no metric `checkpoint.best_metric`.
        DataError: as `dry_run`.
    """
    names, has_all_names = list[str](), True
    for key, data in components.evaluation_sets.items():
        try:
            of_set = dry_run(replace(components, data=data), layout)
            names += [f"val/{key}/{name}" for name in of_set.names]
            has_all_names &= of_set.has_all_names
        except (ValueError, RuntimeError, IndexError) as err:
            raise ValueError(
                f"evaluation_sets.{key} does not fit the model or the evaluator: {err}; choose others"
            ) from err
    own = dry_run(components, layout)  # last: an evaluator that gets a data set keeps this one
    names += [f"val/{name}" for name in own.names]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(
            f"{twice[0]} would be the name of two metrics; give the evaluation set or the evaluator another name"
        )
    if best_metric is not None and best_metric not in names and has_all_names and own.has_all_names:
        raise ValueError(
            f"checkpoint.best_metric={best_metric} is not a metric of this run; use one of {', '.join(sorted(names))}, or null"
        )
    return own.interface


def dry_run(components: Components, layout: ParallelLayout) -> DryRun:
    """Evaluate two empty examples with the untrained model, which is not changed.

    Raises:
        ValueError: the evaluator does not fit the model's outputs, the layout or the contract.
        DataError: the evaluator reads files, and one is missing or damaged.
    """
    batch = components.data.example(2)
    model, task, evaluators = components.setup.model, components.setup.get_task(), list_evaluators(components.evaluator)
    problems = find_evaluator_incompatibilities(components.evaluator, layout)
    problems += [problem for each in evaluators.values() for problem in (*renamed_methods(each), *_not_callable(each))]
    if problems:
        raise ValueError("; ".join(problems))
    names, has_all_names = list[str](), True
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        evaluation = task.evaluate(model.eval(), batch, StepContext(0, 1, is_training=False))
        for prefix, evaluator in evaluators.items():
            if isinstance(evaluator, ModelEvaluator):
                evaluator.setup(components.data)
            elif evaluation.outputs is None:
                raise ValueError(
                    f"evaluator {type(evaluator).__name__} compares outputs with targets, and task {type(task).__name__} "
                    "gives it none; return them from the task's evaluate(), or use evaluator=none"
                )
            try:
                metrics = _measure(evaluator, model, batch, evaluation)
            except (ArithmeticError, ValueError) as err:
                if isinstance(err, ValueError) and DOMAIN_ERROR not in str(err):
                    raise
                has_all_names = False
                continue
            if not type(evaluator).__module__.startswith("modules."):  # those of Lathe keep nothing
                known = (components.data, model, *model.modules())
                _check_state(evaluator, known, partial(_measure, evaluator, model, batch, evaluation))
            own = [f"{prefix}{name}" for name in metrics]
            _check_new(evaluator, task, own, evaluation.metrics)
            names += own
        model.train()
    names = [*evaluation.metrics, *names]
    _check_names(components.evaluator, names)
    interface = None
    if evaluation.outputs is not None and isinstance(batch, tuple):
        interface = add_reader(infer_interface(batch[0], evaluation.outputs), components.data, components.evaluator)
    return DryRun(names, interface, has_all_names)


def _measure(
    evaluator: Evaluator | ModelEvaluator, model: nn.Module, batch: Tree, evaluation: Evaluation
) -> Mapping[str, float]:
    if isinstance(evaluator, ModelEvaluator):
        sums = _check_sums(evaluator, evaluator.update_with_model(model, batch))
        return as_numbers(evaluator, evaluator.compute_with_model(model, sums))
    sums = _check_sums(evaluator, evaluator.update(evaluation.outputs, evaluation.targets))
    return as_numbers(evaluator, evaluator.compute(sums))


def _check_state(evaluator: Evaluator | ModelEvaluator, known: Sequence[object], measure: Callable[[], object]) -> None:
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


def _check_new(evaluator: object, task: object, names: Sequence[str], of_task: Collection[str]) -> None:
    """Refuse a metric of an evaluator that would replace one of the task.

    Raises:
        ValueError: both have a metric of the same name.
    """
    if twice := [name for name in names if name in of_task]:
        raise ValueError(
            f"evaluator {type(evaluator).__name__}: the task {type(task).__name__} has a metric {twice[0]} too, and one would "
            "replace the other; rename it in one of them, or give the evaluator a name with evaluator=several"
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
