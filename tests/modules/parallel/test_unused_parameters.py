"""Data parallelism trains models whose parameters get no gradient in some steps, with the losses of one process."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.data.base import Batch, ComponentWarning
from modules.objective.cross_entropy import CrossEntropy
from modules.parallel.base import Engine, EngineConfig, Rank, TrainingSetup
from modules.parallel.data import DataParallel
from modules.parallel.single import Single
from modules.parallel.topology import Topology
from modules.schedule.constant import Constant
from tests.support.ranks import run_on_ranks

NUM_STEPS, BATCH_SIZE = 7, 8


class Parted(nn.Module):
    """A layer, and further ones that a kind of use calls or not."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.calls = kind, 0
        self.layer, self.head, self.other = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 4)
        self.words = nn.Embedding(5, 4, sparse=kind == "sparse")
        self.empty = nn.Parameter(torch.zeros(4, 0))
        if kind == "frozen":
            self.other.requires_grad_(False)
        elif kind == "all":
            del self.head, self.other, self.words, self.empty

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer(inputs)
        more: Tensor
        step = self.calls
        self.calls += 1
        if self.kind in ("never", "all"):
            return outputs
        if self.kind == "some steps":
            more = self.head(inputs) if step % 3 == 1 else self.other(outputs)
            return outputs + more
        if self.kind in ("some examples", "sparse"):
            for row in range(len(inputs)):  # often none of a replica
                if inputs[row, 0] > 1:
                    more = self._sparse(inputs[row]) if self.kind == "sparse" else self.head(inputs[row])
                    outputs = outputs + nn.functional.pad(more[None], (0, 0, row, len(inputs) - row - 1))
            return outputs
        more = self.head(inputs) + (self.empty @ self.empty.T).sum()
        return outputs + more

    def _sparse(self, row: Tensor) -> Tensor:
        words: Tensor = self.words((row[1].abs() * 2).long() % 5)
        return words


@dataclass(frozen=True)
class Case:
    kind: str
    optimizer: str = "adamw"
    num_accumulation: int = 1
    grad_clip_norm: float | None = None


CASES = [
    *(Case(kind) for kind in ("all", "never", "some steps", "some examples", "frozen")),
    Case("some steps", "sgd"),
    Case("some examples", "sgd", 2, 0.5),
    Case("some examples", "adamw", 4),
    Case("never", "adamw", 2),
    Case("sparse", "plain"),
]
OPTIMIZERS: dict[str, Any] = {
    "adamw": functools.partial(torch.optim.AdamW, lr=0.1, weight_decay=0.2),
    "sgd": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
    "plain": functools.partial(torch.optim.SGD, lr=0.1),
}
Result = tuple[list[float], dict[str, list[float]], list[str]]


def train(rank: Rank, case: Case, world: int) -> Result:
    """Losses, weights and warnings of one rank; a replica takes the rows of its micro-batches from the whole batch."""
    engine: Engine = DataParallel(world) if world > 1 else Single()
    setup = TrainingSetup(Parted(case.kind), CrossEntropy(), OPTIMIZERS[case.optimizer], Constant())
    config = EngineConfig(
        num_steps=NUM_STEPS, num_accumulation=case.num_accumulation, grad_clip_norm=case.grad_clip_norm, precision="fp32",
        compile=False, device="cpu", batch_size_per_device=BATCH_SIZE // case.num_accumulation // world,
        topology=Topology(data=world), rank=rank,
    )  # fmt: skip
    engine.prepare(setup, config)
    losses = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ComponentWarning)
        for step in range(NUM_STEPS):
            inputs, targets = _batch(step)
            # The micro-batches of all replicas together are those of one process.
            rows = torch.arange(BATCH_SIZE).reshape(case.num_accumulation, world, -1)[:, rank.number].flatten()
            losses.append(float(engine.train_step((inputs[rows], targets[rows]), step)["loss_nats"]))
    shown = [str(each.message) for each in caught if each.category is ComponentWarning]
    return losses, {name: tensor.flatten().tolist() for name, tensor in engine.weights().items()}, shown


def train_all(rank: Rank) -> list[Result]:
    return [train(rank, case, 2) for case in CASES]


def _batch(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(BATCH_SIZE, 3, generator=generator), torch.randint(4, (BATCH_SIZE,), generator=generator)


@functools.cache
def replicas() -> list[Result]:
    return run_on_ranks(2, train_all)[0]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_replicas_train_parameters_without_gradients_as_one_process_does(case: Case) -> None:
    losses, weights, _ = train(Rank(), case, 1)
    actual_losses, actual_weights, _ = replicas()[CASES.index(case)]
    assert actual_losses == pytest.approx(losses, rel=1e-5)
    for name, weight in weights.items():
        assert actual_weights[name] == pytest.approx(weight, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("all", None),
        (
            "never",
            "6 of 8 parameters got no gradient in a step, so it did not train them: empty, head.weight, head.bias",
        ),
        ("some steps", "4 of 8 parameters got no gradient"),
    ],
)
def test_parameters_that_no_replica_used_are_named_once(kind: str, message: str | None) -> None:
    (_, _, shown), *_ = (result for case, result in zip(CASES, replicas(), strict=True) if case.kind == kind)
    assert len(shown) == (message is not None)
    assert not message or shown[0].startswith(message)
