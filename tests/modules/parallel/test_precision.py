"""Half precision and gradients that are not finite: every mode handles them like one process."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch.optim import SGD

from modules.data.base import Batch
from modules.objective.cross_entropy import CrossEntropy
from modules.parallel.base import EngineConfig, Rank, TrainingSetup
from modules.parallel.deepspeed.loss_scale import LossScale
from modules.schedule.constant import Constant
from tests.support import engines
from tests.support.engines import MODES, Mode, Task, TrainingResult, make_batch, make_model, train
from tests.support.ranks import run_on_ranks

SMALL = Task("mlp", num_steps=20, precision="fp16", optimizer=partial(SGD, lr=0.5))
OVERFLOWING = replace(SMALL, optimizer=partial(SGD, lr=1e-3))  # with steps so small that rounding does not grow
PEERS = {
    "data": ["zero0", "zero1", "zero2", "zero3"],
    "single": ["pipeline", "model"],
}
"""Modes by a reference that uses torch's scaler. Gradients of replicas are twice as large before they are averaged, so they
overflow earlier."""


def make_large_batch(name: str, step: int, size: int = engines.BATCH_SIZE) -> Batch:
    """Batches whose gradients overflow fp16 with a loss scale of 65536."""
    inputs, targets = make_batch(name, step, size)
    assert isinstance(inputs, torch.Tensor)
    return inputs * 300, targets


def train_fp16(rank: Rank, mode: Mode, task: Task, overflows: bool) -> TrainingResult:
    """Train on a CPU, where Lathe refuses fp16 only because it is slow."""
    with (
        patch("modules.parallel.forward.find_device", lambda engine_config: torch.device("cpu")),
        patch.object(engines, "make_batch", make_large_batch if overflows else make_batch),
    ):
        return train(rank, mode, task)


@functools.cache
def train_reference(mode: str, overflows: bool) -> TrainingResult:
    task = OVERFLOWING if overflows else SMALL
    return run_on_ranks(MODES[mode].topology.world, train_fp16, MODES[mode], task, overflows)[0]


@pytest.mark.slow
@pytest.mark.parametrize("overflows", [False, True], ids=["small", "overflowing"])
@pytest.mark.parametrize(("peer", "name"), [(peer, name) for peer, names in PEERS.items() for name in names])
def test_fp16_scales_clips_and_skips_as_torch_does(peer: str, name: str, overflows: bool) -> None:
    expected = train_reference(peer, overflows)
    result = run_on_ranks(2, train_fp16, MODES[name], OVERFLOWING if overflows else SMALL, overflows)[0]
    assert (0.0 in expected.norms) == overflows  # a norm of 0 is a skipped step
    assert result.norms == pytest.approx(expected.norms, rel=1e-2)
    assert result.losses == pytest.approx(expected.losses, rel=1e-2)


@pytest.mark.slow
def test_replicas_give_the_fp16_losses_of_one_process() -> None:
    assert train_reference("data", False).losses == pytest.approx(train_reference("single", False).losses, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "target"),
    [("data", "zero1"), ("zero3", "data"), ("zero2", "zero0"), ("single", "pipeline"), ("pipeline", "single")],
)
def test_a_resume_restores_the_loss_scale(source: str, target: str, tmp_path: Path) -> None:
    expected = train_reference("single" if "single" in (source, target) else "data", True)
    first = replace(OVERFLOWING, save=tmp_path / "state", save_after=10)
    run_on_ranks(MODES[source].topology.world, train_fp16, MODES[source], first, True)
    rest = replace(OVERFLOWING, first_step=10, load=tmp_path / "state")
    result = run_on_ranks(MODES[target].topology.world, train_fp16, MODES[target], rest, True)[0]
    assert 0.0 not in result.norms  # with the initial scale these steps overflow again
    assert result.norms == pytest.approx(expected.norms[10:], rel=1e-2)
    assert result.losses == pytest.approx(expected.losses[10:], rel=1e-2)


def test_the_loss_scale_changes_like_that_of_torch() -> None:
    own, peer = LossScale(), torch.amp.GradScaler("cpu", growth_interval=2000)
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.0)
    parameter = optimizer.param_groups[0]["params"][0]
    for step in range(4100):
        overflow = step in (3, 4, 2500)
        peer.scale(torch.ones(1))
        parameter.grad = torch.full((1,), torch.inf if overflow else 1.0)
        peer.step(optimizer)
        peer.update()
        own.update(overflow)
        assert own.value == peer.get_scale(), step
    assert own.state_dict() == peer.state_dict()


@dataclass
class StepResult:
    loss: float
    norm: float


def train_with_nan_gradient(rank: Rank, mode: Mode, grad_clip_norm: float | None) -> StepResult:
    """Train one step with a finite loss and a NaN gradient."""
    topology = mode.topology
    model = make_model("mlp")
    list(model.parameters())[-1].register_hook(lambda grad: grad * torch.nan)  # type: ignore[no-untyped-call]
    engine = mode.engine()
    setup = TrainingSetup(model, CrossEntropy(), partial(SGD, lr=0.1), Constant())
    engine.prepare(setup, EngineConfig(9, 1, grad_clip_norm, "fp32", False, "cpu", 4, topology, rank))
    metrics = engine.train_step(make_batch("mlp", 0, 4), 0)
    return StepResult(float(metrics["loss_nats"]), float(metrics.get("grad_norm", 0.0)))


@pytest.mark.parametrize("grad_clip_norm", [0.1, None])
@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3", "pipeline"])
def test_a_nan_gradient_is_reported_although_deepspeed_skips_the_step(name: str, grad_clip_norm: float | None) -> None:
    for result in run_on_ranks(2, train_with_nan_gradient, MODES[name], grad_clip_norm):
        assert result.loss == result.loss
        assert result.norm == float("inf")
