"""Tries an evaluator on the untrained model, so that problems are reported before training."""

from __future__ import annotations

import inspect

import torch

from experiments.components.assemble import Components
from experiments.components.model_signature import ModelInterface, infer_interface
from modules.evaluator.base import MakesArtifacts, ModelEvaluator, renamed_methods
from modules.parallel.cost_model.compatibility import find_evaluator_incompatibilities
from modules.parallel.cost_model.layout import ParallelLayout


def dry_run(components: Components, layout: ParallelLayout) -> tuple[list[str], ModelInterface]:
    """Evaluate two empty examples with the untrained model, which is not changed.

    Returns:
        The names of the metrics, and the model's inputs and outputs.

    Raises:
        ValueError: the evaluator does not fit the model's outputs, the layout or the contract.
        DataError: the evaluator reads files, and one is missing or damaged.
    """
    inputs, targets = components.data.example(2)
    model, evaluator = components.task.model, components.evaluator
    problems = [
        *renamed_methods(evaluator),
        *find_evaluator_incompatibilities(evaluator, layout),
        *_not_callable(evaluator),
    ]
    if problems:
        raise ValueError("; ".join(problems))
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        outputs = model.eval()(inputs)
        _, objective_metrics = components.task.objective(outputs, targets)
        if isinstance(evaluator, ModelEvaluator):
            evaluator.setup(components.data)
            metrics = evaluator.compute_with_model(model, evaluator.update_with_model(model, (inputs, targets)))
        else:
            metrics = evaluator.compute(evaluator.update(outputs, targets))
        model.train()
    return [*objective_metrics, *metrics], infer_interface(inputs, outputs)


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
