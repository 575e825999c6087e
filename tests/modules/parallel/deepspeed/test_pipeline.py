"""What could go wrong in a pipeline besides the matrix: ties of every kind, tuples between stages, frozen layers, turns."""

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
from modules.parallel.base import EngineConfig, Rank, TrainingTask
from modules.parallel.deepspeed_pipeline import Pipeline
from modules.parallel.topology import Topology
from modules.schedule.constant import Constant
from tests.support.engines import MODES, Mode, Outcome, Task, make_batch, outcomes, train
from tests.support.ranks import alone, on_ranks

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


class Both(nn.Module):
    """Changes what is summed up and hands on what it was made of: two tensors, one of them without a gradient."""

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


def tied() -> nn.Module:
    """Layers 0, 1 and 3 have one weight, 2 and 4 another, and every bias is a layer's own."""
    layers = [nn.Linear(5, 5) for _ in range(5)]
    layers[1].weight = layers[3].weight = layers[0].weight
    layers[4].weight = layers[2].weight
    return Stack(*layers, nn.Linear(5, 6))


def twice() -> nn.Module:
    """The very same layer two times."""
    layer = nn.Linear(5, 5)
    return Stack(layer, nn.Tanh(), layer, nn.Linear(5, 6))


def tuples() -> nn.Module:
    return Stack(Both(), Both(), Last())


def frozen() -> nn.Module:
    """The first layer is frozen, and one on the last stage."""
    model = Stack(nn.Linear(5, 5), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 6))
    model.stack[0].requires_grad_(False)
    model.stack[3].requires_grad_(False)
    return model


MAKERS: dict[str, Callable[[], nn.Module]] = {"tied": tied, "twice": twice, "tuples": tuples, "frozen": frozen}


def run(rank: Rank, mode: Mode, name: str, evaluates: bool) -> Outcome:
    """Six steps of three micro-batches, with an evaluation after each if asked for."""
    torch.manual_seed(1)
    engine = mode.engine()
    engine_config = EngineConfig(6, 3, 0.1, "fp32", False, "cpu", 2, mode.topology, rank)
    engine.prepare(
        TrainingTask(MAKERS[name](), CrossEntropy(), partial(SGD, lr=0.3, momentum=0.9), Constant()), engine_config
    )
    losses, norms, evaluation = [], [], {}
    for step in range(6):
        metrics = engine.train_step(make_batch("mlp", step, 6), step)
        losses.append(float(metrics["loss_nats"]))
        norms.append(float(metrics["grad_norm"]))
        if evaluates:
            sizes = [5, 1, 3, 2, 4, 1, 1, 2, 3, 1, 5]  # more than go through the stages at once
            batches = [(make_batch("mlp", number, size), number != 7) for number, size in enumerate(sizes)]
            evaluation = engine.evaluate(batches, Accuracy([1, 2]))
    return Outcome(losses, norms, evaluation, {key: tensor.numpy() for key, tensor in engine.weights().items()})


def stages(*firsts: int) -> Mode:
    return Mode("pipeline", Topology(pipe=len(firsts)), partition=list(firsts))


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("tied", stages(0, 2)),  # one weight twice on the first stage and once on the second
        ("tied", stages(0, 5)),  # all of them on the first
        ("tied", stages(0, 1, 3)),
        ("tied", stages(0, 2, 4)),
        ("twice", stages(0, 2)),
        ("twice", stages(0, 3)),
        ("tuples", stages(0, 1)),
        ("tuples", stages(0, 1, 2)),
        ("frozen", stages(0, 3)),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.partition)),
)
def test_stages_train_as_the_whole_model_does(name: str, mode: Mode) -> None:
    expected = alone(run, MODES["single"], name, True)
    found = on_ranks(mode.topology.world, run, mode, name, True)[0]
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    assert found.norms == pytest.approx(expected.norms, rel=1e-4)
    assert found.evaluation == pytest.approx(expected.evaluation, rel=1e-5)
    assert found.weights.keys() == expected.weights.keys()
    for key, weight in expected.weights.items():
        np.testing.assert_allclose(found.weights[key], weight, rtol=1e-4, atol=1e-6, err_msg=key)


def test_a_layer_that_is_tied_in_two_ways_is_refused() -> None:
    from modules.parallel.deepspeed.pipeline_stages import _with_ties

    one, two, three = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 5)
    two.weight, two.bias = one.weight, three.bias
    with pytest.raises(
        ValueError, match=r"layer 1 of the model shares weights with different layers, \[1, 2\] and others"
    ):
        _with_ties([one, two, three])


def test_evaluations_in_between_leave_training_as_it_was() -> None:
    mode = stages(0, 1)
    assert on_ranks(2, run, mode, "tuples", True)[0].losses == on_ranks(2, run, mode, "tuples", False)[0].losses


def under_stage_0(rank: Rank) -> list[float]:
    with (
        patch("modules.parallel.deepspeed_pipeline.STAGE", 0),
        patch.object(Pipeline, "_after_step", lambda self, metrics: metrics),  # it says no norm there
    ):
        return train(rank, Mode("pipeline", Topology(pipe=2)), Task("gpt", num_steps=12)).losses


def test_deepspeed_still_clips_wrongly_under_stage_0_which_is_why_pipelines_run_under_stage_1() -> None:
    expected = outcomes("single")["gpt"].losses[:12]
    assert on_ranks(2, under_stage_0)[0] != pytest.approx(expected, rel=1e-4)
