"""Half precision and gradients that are no numbers: every mode does with them what one process does."""

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
from modules.parallel.base import EngineConfig, Rank, TrainingTask
from modules.parallel.deepspeed.loss_scale import LossScale
from modules.schedule.constant import Constant
from tests.support import engines
from tests.support.engines import MODES, Mode, Outcome, Task, make_batch, make_model, train
from tests.support.ranks import on_ranks

SMALL = Task("mlp", precision="fp16", optimizer=partial(SGD, lr=0.5))
OVERFLOWING = replace(SMALL, optimizer=partial(SGD, lr=1e-3))  # with steps so small that rounding does not grow
PEERS = {
    "data": ["zero0", "zero1", "zero2", "zero3"],
    "single": ["pipeline", "model"],
}
"""By torch's own scaler. What replicas compute is not yet divided by their number, and so twice as near to an overflow."""


def too_large(name: str, step: int, size: int = engines.BATCH_SIZE) -> Batch:
    """Batches whose gradients, times a loss scale of 65536, are more than fp16 can hold."""
    inputs, targets = make_batch(name, step, size)
    assert isinstance(inputs, torch.Tensor)
    return inputs * 300, targets


def train_fp16(rank: Rank, mode: Mode, task: Task, overflows: bool) -> Outcome:
    """On a CPU, where fp16 is refused for its slowness but computes well."""
    with (
        patch("modules.parallel.forward.find_device", lambda engine_config: torch.device("cpu")),
        patch.object(engines, "make_batch", too_large if overflows else make_batch),
    ):
        return train(rank, mode, task)


@functools.cache
def by_torch(mode: str, overflows: bool) -> Outcome:
    task = OVERFLOWING if overflows else SMALL
    return on_ranks(MODES[mode].topology.world, train_fp16, MODES[mode], task, overflows)[0]


@pytest.mark.slow
@pytest.mark.parametrize("overflows", [False, True], ids=["small", "overflowing"])
@pytest.mark.parametrize(("peer", "name"), [(peer, name) for peer, names in PEERS.items() for name in names])
def test_fp16_scales_clips_and_skips_as_torch_does(peer: str, name: str, overflows: bool) -> None:
    expected = by_torch(peer, overflows)
    found = on_ranks(2, train_fp16, MODES[name], OVERFLOWING if overflows else SMALL, overflows)[0]
    assert (0.0 in expected.norms) == overflows  # that is a step that was skipped
    assert found.norms == pytest.approx(expected.norms, rel=1e-2)
    assert found.losses == pytest.approx(expected.losses, rel=1e-2)


@pytest.mark.slow
def test_replicas_learn_in_fp16_what_one_process_does() -> None:
    assert by_torch("data", False).losses == pytest.approx(by_torch("single", False).losses, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "target"),
    [("data", "zero1"), ("zero3", "data"), ("zero2", "zero0"), ("single", "pipeline"), ("pipeline", "single")],
)
def test_the_scale_of_the_loss_comes_along_in_a_resume(source: str, target: str, tmp_path: Path) -> None:
    expected = by_torch("single" if "single" in (source, target) else "data", True)
    first = replace(OVERFLOWING, num_steps=10, save=tmp_path / "state")
    on_ranks(MODES[source].topology.world, train_fp16, MODES[source], first, True)
    rest = replace(OVERFLOWING, first_step=10, load=tmp_path / "state")
    found = on_ranks(MODES[target].topology.world, train_fp16, MODES[target], rest, True)[0]
    assert 0.0 not in found.norms  # at the first scale these would overflow again
    assert found.norms == pytest.approx(expected.norms[10:], rel=1e-2)
    assert found.losses == pytest.approx(expected.losses[10:], rel=1e-2)


def test_the_scale_moves_as_that_of_torch() -> None:
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
class Seen:
    loss: float
    norm: float


def break_down(rank: Rank, mode: Mode, grad_clip_norm: float | None) -> Seen:
    """A step whose loss is a number and whose gradient is none."""
    topology = mode.topology
    model = make_model("mlp")
    list(model.parameters())[-1].register_hook(lambda grad: grad * torch.nan)  # type: ignore[no-untyped-call]
    engine = mode.engine()
    task = TrainingTask(model, CrossEntropy(), partial(SGD, lr=0.1), Constant())
    engine.prepare(task, EngineConfig(9, 1, grad_clip_norm, "fp32", False, "cpu", 4, topology, rank))
    metrics = engine.train_step(make_batch("mlp", 0, 4), 0)
    return Seen(float(metrics["loss_nats"]), float(metrics.get("grad_norm", 0.0)))


@pytest.mark.parametrize("grad_clip_norm", [0.1, None])
@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3", "pipeline"])
def test_a_gradient_that_is_no_number_is_told_though_deepspeed_skips_the_step(
    name: str, grad_clip_norm: float | None
) -> None:
    for seen in on_ranks(2, break_down, MODES[name], grad_clip_norm):
        assert seen.loss == seen.loss
        assert seen.norm == float("inf")
