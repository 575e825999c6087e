"""Tries an evaluator on the untrained model, so that what does not fit is told before hours of training."""

from __future__ import annotations

import inspect

import torch

from experiments.components.assemble import Components
from experiments.components.model_signature import Interface, of_tensors
from modules.evaluator.base import ModelEvaluator, Shows
from modules.parallel.cost_model.compatibility import evaluator_incompatibilities
from modules.parallel.cost_model.layout import ParallelLayout


def dry_run(parts: Components, layout: ParallelLayout) -> tuple[list[str], Interface]:
    """Measure two empty examples with the untrained model, which stays as it is.

    Returns:
        The names of the metrics, and what the model takes and gives.

    Raises:
        ValueError: the evaluator cannot measure this model's outputs, or this layout serves none like it.
        DataError: it reads files, and one is missing or damaged.
    """
    inputs, targets = parts.data.example(2)
    model, evaluator = parts.learner.model, parts.evaluator
    if problems := [*evaluator_incompatibilities(evaluator, layout), *_uncallable(evaluator)]:
        raise ValueError("; ".join(problems))
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        outputs = model.eval()(inputs)
        _, other = parts.learner.objective(outputs, targets)
        if isinstance(evaluator, ModelEvaluator):
            evaluator.attach(parts.data)
            own = evaluator.model_metrics(model, evaluator.measure_model(model, (inputs, targets)))
        else:
            own = evaluator.metrics(evaluator.measure(outputs, targets))
        model.train()
    return [*other, *own], of_tensors(inputs, outputs)


def _uncallable(evaluator: object) -> list[str]:
    """Of files that cannot be asked for. They are not tried: a text that is written, or a table, can take minutes."""
    if not isinstance(evaluator, Shows):
        return []
    try:
        inspect.signature(evaluator.files).bind("model", "split")
    except TypeError as err:
        return [
            f"evaluator {type(evaluator).__name__}: files cannot be called as files(model, split) ({err}), which it is after "
            "training; write `def files(self, model, split)`, or call what it has otherwise by another name"
        ]
    except ValueError:  # it tells no signature, as what is written in C
        return []
    return []
