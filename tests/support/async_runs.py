"""Asynchronous trainings for tests: one process per role, without launcher and supervisor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import SGD, Optimizer

from experiments.train.determinism import seed_step
from modules.data.base import Batch
from modules.evaluator.accuracy import Accuracy
from modules.objective.cross_entropy import CrossEntropy
from modules.parallel.base import EngineConfig, Rank, TrainingSetup
from modules.parallel.data import DataParallel
from modules.parallel.parameter_server import ParameterServer
from modules.parallel.single import Single
from modules.parallel.topology import RankCoordinates, Topology
from modules.schedule.cosine import Cosine

BATCH_SIZE, NUM_CLASSES = 12, 4


class Net(nn.Module):
    """Has dropout, normalisation, and weights that are tied, frozen or without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.dropout = nn.Dropout(0.4)
        self.middle = nn.Linear(3, 3)
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.middle.weight
        self.unused = nn.Linear(2, 7)
        self.last = nn.Linear(3, NUM_CLASSES)
        self.last.bias.requires_grad_(False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.dropout(torch.relu(self.norm(self.first(inputs))))
        out: torch.Tensor = self.last(self.tied(torch.relu(self.middle(hidden))))
        return out


class Plain(nn.Module):
    """Without randomness and batch statistics, so that replicas compute the same as one process."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.last = nn.Linear(7, NUM_CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(torch.tanh(self.first(inputs)))
        return out


@dataclass(frozen=True)
class AsyncTask:
    """A training; it gives the same numbers in every mode."""

    folder: Path
    """For the checkpoints of servers."""
    num_steps: int = 6
    model: type[nn.Module] = Plain
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = field(default=partial(SGD, lr=0.1, momentum=0.9))
    grad_clip_norm: float | None = None
    num_accumulation: int = 1
    sync_every_steps: int = 100
    load: Path | None = None
    save: Path | None = None
    first_step: int = 0
    stops: int | None = None


@dataclass
class AsyncOutcome:
    """Results of the coordinator, or of a single process."""

    losses: list[float]
    evaluation: dict[str, float]
    weights: dict[str, NDArray[Any]]
    metrics: dict[str, float] = field(default_factory=dict)


def make_batch(step: int, number: int = 0, count: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(1000 + step)
    targets = torch.randint(NUM_CLASSES, (BATCH_SIZE,), generator=generator)
    inputs = torch.randn(BATCH_SIZE, 5, generator=generator) + targets[:, None] / 2
    own = slice(number * BATCH_SIZE // count, (number + 1) * BATCH_SIZE // count)
    return inputs[own], targets[own]


def fetch(step: int, number: int, count: int) -> Batch:
    seed_step(0, step, RankCoordinates(0, number, 0))
    return make_batch(step, number, count)


def _make_setup(task: AsyncTask) -> TrainingSetup:
    torch.manual_seed(0)
    return TrainingSetup(task.model(), CrossEntropy(), task.optimizer, Cosine(warmup_steps=2))


def _make_config(task: AsyncTask, rank: Rank, replicas: int, num_shards: int) -> EngineConfig:
    return EngineConfig(
        num_steps=task.num_steps, num_accumulation=task.num_accumulation, grad_clip_norm=task.grad_clip_norm,
        precision="fp32", compile=False, device="cpu",
        batch_size_per_device=BATCH_SIZE // num_shards // task.num_accumulation, topology=Topology(data=replicas), rank=rank,
        sync_every_steps=(task.stops or task.sync_every_steps,), folder=task.folder,
    )  # fmt: skip


def _make_evaluation_batches() -> list[tuple[Batch, bool]]:
    return [(make_batch(999), True)]


def train_synchronously(rank: Rank, task: AsyncTask) -> AsyncOutcome:
    """Train with `Single`, or with `DataParallel` on several ranks."""
    engine = Single() if rank.local_world_size == 1 else DataParallel(rank.local_world_size)
    engine.prepare(_make_setup(task), _make_config(task, rank, rank.local_world_size, rank.local_world_size))
    if task.load is not None:
        engine.load(task.load)
    losses = [
        float(engine.train_step(fetch(step, rank.number, rank.local_world_size), step)["loss_nats"])
        for step in range(task.first_step, task.stops or task.num_steps)
    ]
    _save(engine, task)
    batches = _make_evaluation_batches() if rank.number == 0 else [(make_batch(999), False)]
    evaluation = engine.evaluate(batches, Accuracy([1]))
    return AsyncOutcome(losses, evaluation, {name: tensor.numpy() for name, tensor in engine.weights().items()})


def _save(engine: Any, task: AsyncTask) -> None:
    write = engine.snapshot() if task.save is not None else None
    if task.save is not None and write is not None:
        task.save.mkdir()
        write(task.save)


def run_server_role(rank: Rank, engine: dict[str, Any], replicas: int, task: AsyncTask) -> AsyncOutcome | None:
    """Run one role of a training with parameter servers: rank 0 is the coordinator, then servers, then replicas."""
    server = ParameterServer(replicas, **engine)
    engine_config = _make_config(task, rank, replicas, server.chunks(Topology(data=replicas)) * server.group_size)
    roles = list(server.roles(engine_config.topology))
    if rank.number > 0:
        server.run_role(roles[rank.number - 1], _make_setup(task), engine_config, fetch, lambda: None)
        return None
    server.prepare(_make_setup(task), engine_config)
    if task.load is not None:
        server.load(task.load)
    steps = range(task.first_step, task.stops or task.num_steps)
    losses = [float(server.train_step(make_batch(step), step)["loss_nats"]) for step in steps]
    _save(server, task)
    evaluation, metrics = server.evaluate(_make_evaluation_batches(), Accuracy([1])), server.take_metrics()
    weights = {name: np.array(tensor) for name, tensor in server.weights().items()}
    server.close()
    return AsyncOutcome(losses, evaluation, weights, metrics)
