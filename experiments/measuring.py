"""What an evaluator needs from a run beside the engine: to be tried before hours of training, and its files kept."""

from __future__ import annotations

from pathlib import Path

import torch

from experiments import atomic
from experiments.export.interface import Interface, of_tensors
from experiments.journal import Journal
from experiments.parts import Parts
from modules.evaluator.base import AnyEvaluator, ModelEvaluator, Shows
from modules.parallel.fits import evaluator_misfits
from modules.parallel.layout import Layout


def try_evaluation(parts: Parts, layout: Layout) -> tuple[list[str], Interface]:
    """Measure two empty examples with the untrained model, which stays as it is.

    Returns:
        The names of the metrics, and what the model takes and gives.

    Raises:
        ValueError: the evaluator cannot measure this model's outputs, or this layout serves none like it.
        DataError: it reads files, and one is missing or damaged.
    """
    inputs, targets = parts.data.example(2)
    model, evaluator = parts.learner.model, parts.evaluator
    if problems := evaluator_misfits(evaluator, layout):
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


def keep_files(evaluator: AnyEvaluator, folder: Path, journal: Journal) -> None:
    """Write what an evaluator has to show, and log it as an artifact.

    Args:
        folder: of one attempt and one split, such as ``attempts/1/val`` of the run's; what it holds is replaced.
    """
    if not isinstance(evaluator, Shows):
        return
    folder.mkdir(exist_ok=True)
    for name, content in evaluator.files().items():
        atomic.write_bytes(folder / name, content)
        journal.artifact("/".join((*folder.parts[-3:], name)))
