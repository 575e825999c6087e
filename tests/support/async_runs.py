"""Asynchronous trainings without the rest of the house: every role a process, joined as the keepers would have them."""

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

from experiments.train.trainer import seed_step
from modules.data.base import Batch
from modules.evaluator.accuracy import Accuracy
from modules.objective.cross_entropy import CrossEntropy
from modules.parallel.base import EngineConfig, Rank, TrainingTask
from modules.parallel.data import DataParallel
from modules.parallel.parameter_server import ParameterServer
from modules.parallel.single import Single
from modules.parallel.topology import RankCoordinates, Topology
from modules.schedule.cosine import Cosine

BATCH_SIZE, NUM_CLASSES = 12, 4


class Net(nn.Module):
    """Dropout, normalisation, a tied weight, one that gets no gradient, and a frozen one."""

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
    """Nothing that replicas would do apart."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.last = nn.Linear(7, NUM_CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(torch.tanh(self.first(inputs)))
        return out


@dataclass(frozen=True)
class Task:
    """What is trained; the same numbers for every mode."""

    folder: Path
    """For what servers keep."""
    num_steps: int = 6
    model: type[nn.Module] = Plain
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = field(default=partial(SGD, lr=0.1, momentum=0.9))
    grad_clip_norm: float | None = None
    num_accumulation: int = 1
    meets_every: int = 100
    load: Path | None = None
    save: Path | None = None
    first_step: int = 0
    stops: int | None = None


@dataclass
class Outcome:
    """What the coordinator, or one process, saw."""

    losses: list[float]
    evaluation: dict[str, float]
    weights: dict[str, NDArray[Any]]
    measures: dict[str, float] = field(default_factory=dict)


def batch_of(step: int, number: int = 0, count: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(1000 + step)
    targets = torch.randint(NUM_CLASSES, (BATCH_SIZE,), generator=generator)
    inputs = torch.randn(BATCH_SIZE, 5, generator=generator) + targets[:, None] / 2
    own = slice(number * BATCH_SIZE // count, (number + 1) * BATCH_SIZE // count)
    return inputs[own], targets[own]


def fetch(step: int, number: int, count: int) -> Batch:
    seed_step(0, step, RankCoordinates(0, number, 0))
    return batch_of(step, number, count)


def _learner(task: Task) -> TrainingTask:
    torch.manual_seed(0)
    return TrainingTask(task.model(), CrossEntropy(), task.optimizer, Cosine(warmup_steps=2))


def _recipe(task: Task, rank: Rank, replicas: int, parts: int) -> EngineConfig:
    return EngineConfig(
        num_steps=task.num_steps, num_accumulation=task.num_accumulation, grad_clip_norm=task.grad_clip_norm,
        precision="fp32", compile=False, device="cpu",
        batch_size_per_device=BATCH_SIZE // parts // task.num_accumulation, topology=Topology(data=replicas), rank=rank,
        meets_every=(task.stops or task.meets_every,), folder=task.folder,
    )  # fmt: skip


def _evaluation() -> list[tuple[Batch, bool]]:
    return [(batch_of(999), True)]


def one_process(rank: Rank, task: Task) -> Outcome:
    """The training by `single`, or by `data` where there are several ranks."""
    engine = Single() if rank.local_world_size == 1 else DataParallel(rank.local_world_size)
    engine.prepare(_learner(task), _recipe(task, rank, rank.local_world_size, rank.local_world_size))
    if task.load is not None:
        engine.load(task.load)
    losses = [
        float(engine.train_step(fetch(step, rank.number, rank.local_world_size), step)["loss_nats"])
        for step in range(task.first_step, task.stops or task.num_steps)
    ]
    _save(engine, task)
    share = _evaluation() if rank.number == 0 else [(batch_of(999), False)]
    found = engine.evaluate(share, Accuracy([1]))
    return Outcome(losses, found, {name: tensor.numpy() for name, tensor in engine.weights().items()})


def _save(engine: Any, task: Task) -> None:
    write = engine.snapshot() if task.save is not None else None
    if task.save is not None and write is not None:
        task.save.mkdir()
        write(task.save)


def served(rank: Rank, engine: dict[str, Any], replicas: int, task: Task) -> Outcome | None:
    """One role of the training by parameter servers: rank 0 coordinates, then come servers, then replicas."""
    server = ParameterServer(replicas, **engine)
    engine_config = _recipe(task, rank, replicas, server.chunks(Topology(data=replicas)) * server.group_size)
    roles = list(server.roles(engine_config.topology))
    if rank.number > 0:
        server.run_role(roles[rank.number - 1], _learner(task), engine_config, fetch, lambda: None)
        return None
    server.prepare(_learner(task), engine_config)
    if task.load is not None:
        server.load(task.load)
    steps = range(task.first_step, task.stops or task.num_steps)
    losses = [float(server.train_step(batch_of(step), step)["loss_nats"]) for step in steps]
    _save(server, task)
    found, measures = server.evaluate(_evaluation(), Accuracy([1])), server.take_metrics()
    weights = {name: np.array(tensor) for name, tensor in server.weights().items()}
    server.close()
    return Outcome(losses, found, weights, measures)
