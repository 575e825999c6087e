"""Tasks that get the whole model train under ZeRO 0 to 2 as in one process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import AdamW

from modules.data.base import Tree
from modules.evaluator.no_metrics import NoMetrics
from modules.parallel.base import EngineConfig, Rank, TrainingSetup
from modules.schedule.constant import Constant
from modules.task.base import Loss, StepContext, Task
from tests.support.engines import MODES, Mode
from tests.support.ranks import RankFailure, run_alone, run_on_ranks

BATCH, MICRO_BATCHES, STEPS = 8, 4, 5


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(3, 5), nn.Linear(5, 2)
        self.teacher = nn.Linear(3, 5).requires_grad_(False)


class PenalizedStudent(Task):
    """Parts of the model, and a gradient by the inputs that is differentiated again."""

    needs = ("inputs", "whole_model")

    def loss(self, model: Any, batch: Tree, context: StepContext) -> Loss:
        with torch.enable_grad():
            x = batch["x"].detach().requires_grad_()
            hidden = torch.tanh(model.body(x))
            (slope,) = torch.autograd.grad(model.head(hidden).sum(), x, create_graph=True)
            distance = (hidden - model.teacher(batch["x"])).square().mean()
            noise = context.randn(len(x), 2) if context.is_training else 0.0
            loss = distance + slope.square().mean() + (model.head(hidden) - noise).square().mean()
        return Loss(loss, {"loss": loss.detach(), "distance": distance.detach()})


@torch.no_grad()
def change_weights(model: Student) -> None:
    """What callbacks do: move a teacher, and limit trained weights."""
    model.teacher.weight.lerp_(model.body.weight, 0.3)
    model.head.weight.clamp_(-0.2, 0.2)


def train(rank: Rank, modes: list[Mode]) -> dict[str, dict[str, Any]]:
    results = {}
    for mode in modes:
        engine, world, model = mode.engine(), mode.topology.data, Student()
        engine.prepare(
            TrainingSetup(model, nn.MSELoss(), lambda each: AdamW(each, lr=0.03), Constant(), task=PenalizedStudent()),
            EngineConfig(STEPS, MICRO_BATCHES // world, 0.5, "fp32", False, "cpu", 2, mode.topology, rank),
        )
        own = slice(rank.number * BATCH // world, (rank.number + 1) * BATCH // world)
        losses = []
        for step in range(STEPS):
            batch = {"x": torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(step))}
            metrics = engine.train_step({"x": batch["x"][own]}, step)
            losses.append([float(metrics[name]) for name in ("loss", "distance", "grad_norm")])
            change_weights(model)
            if refresh := getattr(engine, "refresh_weights", None):
                refresh()
        evaluation = engine.evaluate([({"x": batch["x"][own]}, True)], NoMetrics())
        weights = {name: weight.numpy() for name, weight in engine.weights().items()}
        results[mode.name] = {"losses": np.array(losses), "evaluation": evaluation, **weights}
    return results


@pytest.mark.slow
def test_two_ranks_with_zero_train_a_task_with_the_whole_model_as_one_process() -> None:
    (expected,) = run_alone(train, (MODES["single"],)).values()
    modes = [MODES[name] for name in ("zero0", "zero1", "zero2")]
    for name, result in run_on_ranks(2, train, modes)[0].items():
        assert result["evaluation"] == pytest.approx(expected["evaluation"], abs=1e-5), name
        for key in expected.keys() - {"evaluation"}:
            np.testing.assert_allclose(result[key], expected[key], atol=1e-5, err_msg=f"{name} {key}")


@pytest.mark.slow
def test_zero_3_refuses_a_task_with_the_whole_model() -> None:
    with pytest.raises(
        RankFailure, match="task PenalizedStudent needs whole_model, which the engine Zero does not serve"
    ):
        run_on_ranks(2, train, [MODES["zero3"]])
