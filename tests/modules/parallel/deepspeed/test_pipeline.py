"""Special cases of a pipeline: tied layers, tuples between stages, frozen layers, evaluations during training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from modules.evaluator.accuracy import Accuracy
from modules.objective.cross_entropy import CrossEntropy
from modules.parallel.base import EngineConfig, Rank, TrainingSetup
from modules.parallel.deepspeed_pipeline import Pipeline
from modules.parallel.topology import Topology
from modules.schedule.constant import Constant
from tests.support.engines import MODES, Mode, Task, TrainingResult, make_batch, train, train_all_models
from tests.support.ranks import run_alone, run_on_ranks

pytestmark = pytest.mark.slow


class Stack(nn.Module):
    """A list of layers."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.stack = nn.ModuleList(layers)

    def layers(self) -> list[nn.Module]:
        return list(self.stack)

    def forward(self, states: Any) -> Any:
        for layer in self.stack:
            states = layer(states)
        return states


class TwoOutputs(nn.Module):
    """Returns two tensors; the second one has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 5)

    def forward(self, states: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if isinstance(states, Tensor):
            states = states, states.argmax(1)
        summed, best = states
        return torch.tanh(self.linear(summed)) + best.unsqueeze(1), best


class Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 6)

    def forward(self, states: tuple[Tensor, Tensor]) -> Tensor:
        return self.linear(states[0]) * states[1].unsqueeze(1)  # type: ignore[no-any-return]


def make_tied() -> nn.Module:
    """Layers 0, 1 and 3 share a weight, and layers 2 and 4; no bias is shared."""
    layers = [nn.Linear(5, 5) for _ in range(5)]
    layers[1].weight = layers[3].weight = layers[0].weight
    layers[4].weight = layers[2].weight
    return Stack(*layers, nn.Linear(5, 6))


def make_twice() -> nn.Module:
    """The same layer twice."""
    layer = nn.Linear(5, 5)
    return Stack(layer, nn.Tanh(), layer, nn.Linear(5, 6))


def make_tuples() -> nn.Module:
    return Stack(TwoOutputs(), TwoOutputs(), Last())


def make_frozen() -> nn.Module:
    """The first layer is frozen, and one on the last stage."""
    model = Stack(nn.Linear(5, 5), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 6))
    model.stack[0].requires_grad_(False)
    model.stack[3].requires_grad_(False)
    return model


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "tied": make_tied,
    "twice": make_twice,
    "tuples": make_tuples,
    "frozen": make_frozen,
}


def run(rank: Rank, mode: Mode, name: str, evaluates: bool) -> TrainingResult:
    """Train six steps of three micro-batches, with an evaluation after each step if ``evaluates``."""
    torch.manual_seed(1)
    engine = mode.engine()
    engine_config = EngineConfig(6, 3, 0.1, "fp32", False, "cpu", 2, mode.topology, rank)
    engine.prepare(
        TrainingSetup(MAKERS[name](), CrossEntropy(), partial(SGD, lr=0.3, momentum=0.9), Constant()), engine_config
    )
    losses, norms, evaluation = [], [], {}
    for step in range(6):
        metrics = engine.train_step(make_batch("mlp", step, 6), step)
        losses.append(float(metrics["loss_nats"]))
        norms.append(float(metrics["grad_norm"]))
        if evaluates:
            sizes = [5, 1, 3, 2, 4, 1, 1, 2, 3, 1, 5]  # more batches than the pipeline takes at once
            batches = [(make_batch("mlp", number, size), number != 7) for number, size in enumerate(sizes)]
            evaluation = engine.evaluate(batches, Accuracy([1, 2]))
    return TrainingResult(losses, norms, evaluation, {key: tensor.numpy() for key, tensor in engine.weights().items()})


def make_mode(*firsts: int) -> Mode:
    return Mode("pipeline", Topology(pipe=len(firsts)), partition=list(firsts))


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("tied", make_mode(0, 2)),  # a weight twice on the first stage and once on the second
        ("tied", make_mode(0, 5)),  # all tied layers on the first stage
        ("tied", make_mode(0, 1, 3)),
        ("tied", make_mode(0, 2, 4)),
        ("twice", make_mode(0, 2)),
        ("twice", make_mode(0, 3)),
        ("tuples", make_mode(0, 1)),
        ("tuples", make_mode(0, 1, 2)),
        ("frozen", make_mode(0, 3)),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.partition)),
)
def test_stages_train_like_the_whole_model(name: str, mode: Mode) -> None:
    expected = run_alone(run, MODES["single"], name, True)
    result = run_on_ranks(mode.topology.world, run, mode, name, True)[0]
    assert result.losses == pytest.approx(expected.losses, rel=1e-5)
    assert result.norms == pytest.approx(expected.norms, rel=1e-4)
    assert result.evaluation == pytest.approx(expected.evaluation, rel=1e-5)
    assert result.weights.keys() == expected.weights.keys()
    for key, weight in expected.weights.items():
        np.testing.assert_allclose(result.weights[key], weight, rtol=1e-4, atol=1e-6, err_msg=key)


def test_a_layer_tied_with_two_groups_of_layers_is_refused() -> None:
    from modules.parallel.deepspeed.pipeline_stages import _declare_ties

    one, two, three = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 5)
    two.weight, two.bias = one.weight, three.bias
    with pytest.raises(
        ValueError, match=r"layer 1 of the model shares weights with different groups of layers, \[1, 2\] and others"
    ):
        _declare_ties([one, two, three])


def test_evaluations_do_not_change_training() -> None:
    mode = make_mode(0, 1)
    assert run_on_ranks(2, run, mode, "tuples", True)[0].losses == run_on_ranks(2, run, mode, "tuples", False)[0].losses


def train_with_zero_0(rank: Rank) -> list[float]:
    with (
        patch("modules.parallel.deepspeed_pipeline.STAGE", 0),
        patch.object(Pipeline, "_after_step", lambda self, metrics: metrics),  # stage 0 reports no norm
    ):
        return train(rank, Mode("pipeline", Topology(pipe=2)), Task("gpt")).losses


def test_deepspeed_still_clips_wrongly_under_stage_0() -> None:
    expected = train_all_models("single")["gpt"].losses
    assert run_on_ranks(2, train_with_zero_0)[0] != pytest.approx(expected, rel=1e-4)
