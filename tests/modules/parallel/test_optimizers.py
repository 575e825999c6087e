"""Optimizers that the plan allows on partitioned state: the same training as on one process, and the same after a resume."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.optim import SGD, Optimizer

from modules.optimizer.sparse_adagrad import SparseAdagrad
from tests.support.engines import MODES, Mode, Task, TrainingResult, train_each
from tests.support.ranks import run_on_ranks

pytestmark = pytest.mark.slow

ELEMENTWISE = (
    "SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "SparseAdagrad", "Adadelta", "ASGD",
    "Rprop",
)  # fmt: skip
OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {
    name: partial(getattr(torch.optim, name, SparseAdagrad), lr=1e-3) for name in ELEMENTWISE
} | {
    "SGD with momentum": partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "Adam with amsgrad": partial(torch.optim.Adam, lr=1e-2, amsgrad=True),
    "RMSprop centered with momentum": partial(torch.optim.RMSprop, lr=1e-3, momentum=0.9, centered=True),
    "ASGD with averaging": partial(torch.optim.ASGD, lr=0.1, t0=3),
}
MODE_NAMES = ["single", "zero1", "zero3", "pipeline"]
CUT = 3


def train_and_resume(mode: Mode, states: Path) -> list[dict[str, TrainingResult]]:
    """Train with every optimizer, in the same processes: a whole training, then a resume from its middle."""
    tasks = [Task("mlp", optimizer=optimizer, num_steps=2 * CUT) for optimizer in OPTIMIZERS.values()]
    folders = [states / str(number) for number in range(len(tasks))]
    whole = [replace(task, save=folder, save_after=CUT) for task, folder in zip(tasks, folders, strict=True)]
    rest = [replace(task, first_step=CUT, load=folder) for task, folder in zip(tasks, folders, strict=True)]
    results = run_on_ranks(mode.topology.world, train_each, mode, [*whole, *rest])[0]
    return [dict(zip(OPTIMIZERS, results[at : at + len(tasks)], strict=True)) for at in (0, len(tasks))]


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[dict[str, TrainingResult]]]:
    return functools.cache(lambda mode: train_and_resume(MODES[mode], tmp_path_factory.mktemp(mode)))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("mode", MODE_NAMES)
def test_an_optimizer_gives_the_same_training_on_partitions(
    mode: str, optimizer: str, trainings: Callable[[str], list[dict[str, TrainingResult]]]
) -> None:
    whole, rest = (results[optimizer] for results in trainings(mode))
    expected = trainings("single")[0][optimizer]
    assert whole.losses == pytest.approx(expected.losses, rel=1e-5)
    assert rest.losses == whole.losses[CUT:]
    assert all((rest.weights[name] == weight).all() for name, weight in whole.weights.items())
