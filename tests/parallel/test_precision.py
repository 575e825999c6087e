"""Half precision and gradients that are no numbers: every mode does with them what one process does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch.optim import SGD

from modules.data.base import Batch
from modules.objective.cross_entropy import CrossEntropy
from modules.parallel.base import Learner, Rank, Recipe
from modules.parallel.loss_scale import LossScale
from modules.schedule.constant import Constant
from tests import engines
from tests.engines import MODES, Mode, Outcome, Task, make_batch, make_model, train
from tests.ranks import on_ranks

SGD_FP16 = Task("mlp", precision="fp16", optimizer=partial(SGD, lr=0.5))
SHARED = ["data", "zero0", "zero1", "zero2", "zero3", "pipeline", "model"]


def too_large(name: str, step: int, size: int = engines.BATCH_SIZE) -> Batch:
    """Batches whose gradients, times a loss scale of 65536, are more than fp16 can hold."""
    inputs, targets = make_batch(name, step, size)
    assert isinstance(inputs, torch.Tensor)
    return inputs * 300, targets


def train_fp16(rank: Rank, mode: Mode, task: Task, is_too_large: bool) -> Outcome:
    """On a CPU, where fp16 is refused for its slowness but computes well."""
    with (
        patch("modules.parallel.forward.device_of", lambda recipe: torch.device("cpu")),
        patch.object(engines, "make_batch", too_large if is_too_large else make_batch),
    ):
        return train(rank, mode, task)


@pytest.mark.slow
@pytest.mark.parametrize("is_too_large", [False, True], ids=["small", "overflowing"])
@pytest.mark.parametrize("name", SHARED)
def test_fp16_scales_clips_and_skips_alike_in_every_mode(name: str, is_too_large: bool) -> None:
    expected = on_ranks(1, train_fp16, MODES["single"], SGD_FP16, is_too_large)[0]
    found = on_ranks(2, train_fp16, MODES[name], SGD_FP16, is_too_large)[0]
    assert (0.0 in expected.norms) == is_too_large  # that is a step that was skipped
    assert found.norms == pytest.approx(expected.norms, rel=1e-2)
    assert found.losses == pytest.approx(expected.losses, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(("source", "target"), [("single", "zero1"), ("zero3", "single"), ("pipeline", "zero0")])
def test_the_scale_of_the_loss_comes_along_in_a_resume(source: str, target: str, tmp_path: Path) -> None:
    expected = on_ranks(1, train_fp16, MODES["single"], SGD_FP16, True)[0]
    first = Task("mlp", precision="fp16", optimizer=SGD_FP16.optimizer, num_steps=10, save=tmp_path / "state")
    on_ranks(MODES[source].topology.world, train_fp16, MODES[source], first, True)
    rest = Task("mlp", precision="fp16", optimizer=SGD_FP16.optimizer, first_step=10, load=tmp_path / "state")
    found = on_ranks(MODES[target].topology.world, train_fp16, MODES[target], rest, True)[0]
    assert found.losses == pytest.approx(expected.losses[10:], rel=1e-2)
    assert 0.0 not in found.norms  # at the first scale this would overflow again


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
    list(model.parameters())[-1].register_hook(lambda grad: grad * torch.nan)
    engine = mode.engine()
    learner = Learner(model, CrossEntropy(), partial(SGD, lr=0.1), Constant())
    engine.prepare(learner, Recipe(9, 1, grad_clip_norm, "fp32", False, "cpu", 4, topology, rank))
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
