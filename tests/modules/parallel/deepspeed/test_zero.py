"""Special cases of ZeRO and pipelines: frozen weights, buffers, refused models and settings."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from modules.model.mlp import Mlp
from modules.objective.cross_entropy import CrossEntropy
from modules.parallel.base import Engine, EngineConfig, Rank, TrainingSetup
from modules.parallel.topology import Topology
from modules.schedule.constant import Constant
from tests.support.engines import MODES, Mode, Task, make_batch, make_model, train, train_each
from tests.support.ranks import RankFailure, run_alone, run_on_ranks
from tests.support.variants import only_long


class HalfFrozen(Mlp):
    """The first layer is frozen, and an integer buffer counts the steps."""

    def __init__(self) -> None:
        super().__init__(num_features=5, num_classes=6, hidden_sizes=[8], dropout_prob=0.0)
        self.stack[1].requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            assert isinstance(self.calls, Tensor)
            self.calls += 1
        return super().forward(inputs) * self.scale


def prepare_half_frozen(rank: Rank, mode: Mode) -> Engine:
    torch.manual_seed(0)
    engine = mode.engine()
    engine_config = EngineConfig(9, 1, 0.1, "fp32", False, "cpu", 4, mode.topology, rank)
    engine.prepare(TrainingSetup(HalfFrozen(), CrossEntropy(), lambda p: AdamW(p, lr=0.01), Constant()), engine_config)
    return engine


def train_steps(engine: Engine, rank: Rank, mode: Mode, first: int, last: int) -> None:
    replica, per_replica = mode.topology.coordinates(rank.number).data, 8 // mode.topology.data
    for step in range(first, last):
        inputs, targets = make_batch("mlp", step, 8)
        own = slice(replica * per_replica, (replica + 1) * per_replica)
        engine.train_step((inputs[own], targets[own]), step)


@pytest.fixture(scope="module")
def expected_weights(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_on_ranks(1, train_and_resume, MODES["single"], tmp_path_factory.mktemp("single"))[0]


def train_and_resume(rank: Rank, mode: Mode, folder: Path) -> list[dict[str, Any]]:
    """Return the weights after three steps, after five, and after five with a resume after the third."""
    engine = prepare_half_frozen(rank, mode)
    train_steps(engine, rank, mode, 0, 3)
    if write := engine.snapshot():
        write(folder)
    engine.gather(0.0)
    weights = [engine.weights()]
    train_steps(engine, rank, mode, 3, 5)
    weights.append(engine.weights())
    engine = prepare_half_frozen(rank, mode)
    engine.load(folder)
    train_steps(engine, rank, mode, 3, 5)
    weights.append(engine.weights())
    return [{name: tensor.numpy() for name, tensor in each.items()} for each in weights]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data", "zero0", "zero1", "zero2", "zero3", "zero3_offload", "zero1_4"])
def test_frozen_weights_and_buffers_are_saved_and_restored(
    name: str, tmp_path: Path, expected_weights: list[dict[str, Any]]
) -> None:
    results = run_on_ranks(MODES[name].topology.world, train_and_resume, MODES[name], tmp_path)[0]
    for own, single in zip(results, expected_weights, strict=True):
        assert own.keys() == single.keys()
        for key, weight in single.items():
            np.testing.assert_allclose(own[key], weight, rtol=1e-4, atol=1e-6, err_msg=key)
    assert [int(each["calls"]) for each in results] == [3, 5, 5]
    assert all(np.array_equal(results[2][key], weight) for key, weight in results[1].items()), "a resume is exact"
    moved = {key for key, weight in results[0].items() if not np.array_equal(weight, results[1][key])}
    assert moved == {"stack.4.weight", "stack.4.bias", "scale", "calls"}


LAYOUTS = [
    pytest.param(Mode("zero1_offload", Topology(data=2), stage=1, offload="optimizer"), marks=only_long),
    Mode("zero2_offload", Topology(data=2), stage=2, offload="optimizer"),
    Mode("zero3_offload", Topology(data=2), stage=3, offload="weights_and_optimizer"),
    pytest.param(Mode("zero0_model_data", Topology(data=2, model=2)), marks=only_long),
    Mode("zero2_model_data", Topology(data=2, model=2), stage=2),
    Mode("zero3_model_data", Topology(data=2, model=2), stage=3),
    pytest.param(Mode("zero3_model", Topology(model=2), stage=3), marks=only_long),
    Mode("zero3_alone", stage=3),
    Mode("zero1_uneven", Topology(data=4), stage=1),
    Mode("zero3_uneven", Topology(data=4), stage=3),
]
"""Layouts that `test_equivalence` does not cover: offload and model parallelism with every stage, and uneven partitions."""
CUT = 4


@pytest.mark.slow
@pytest.mark.parametrize("mode", LAYOUTS, ids=str)
def test_offload_and_model_parallelism_work_with_every_stage_and_resume_exactly(mode: Mode, tmp_path: Path) -> None:
    whole = [Task("gpt_tied", num_steps=2 * CUT), Task("mlp", num_steps=2 * CUT)]
    folders = [tmp_path / str(number) for number in range(len(whole))]
    tasks = [replace(task, save=folder, save_after=CUT) for task, folder in zip(whole, folders, strict=True)]
    tasks += [replace(task, first_step=CUT, load=folder) for task, folder in zip(whole, folders, strict=True)]
    results = run_on_ranks(mode.topology.world, train_each, mode, tasks)[0]
    for task, through, rest in zip(whole, results[:2], results[2:], strict=True):
        expected = run_alone(train, MODES["single"], task)
        assert through.losses == pytest.approx(expected.losses, rel=1e-5)
        assert through.norms == pytest.approx(expected.norms, rel=1e-4)
        assert rest.losses == through.losses[CUT:]
        assert all(np.array_equal(rest.weights[name], weight) for name, weight in through.weights.items())


def prepare_linear(rank: Rank, mode: Mode) -> None:
    model: nn.Module = nn.Linear(5, 6)
    engine_config = EngineConfig(9, 1, None, "fp32", False, "cpu", 4, mode.topology, rank)
    mode.engine().prepare(TrainingSetup(model, CrossEntropy(), lambda p: AdamW(p), Constant()), engine_config)


@pytest.mark.parametrize(("name", "message"), [("pipeline", "has no layers"), ("model", "has no shards")])
def test_a_model_that_does_not_fit_is_refused_by_every_rank(name: str, message: str) -> None:
    with pytest.raises(RankFailure) as caught:
        run_on_ranks(2, prepare_linear, MODES[name])
    assert str(caught.value).count(message) == 2


def read_output(rank: Rank, mode: Mode) -> str:
    train_each(rank, mode, [Task("gpt_tied", num_steps=2)])
    sys.stdout.flush()
    sys.stderr.flush()
    return Path(os.readlink("/proc/self/fd/1")).read_text()


@pytest.mark.parametrize("name", ["data", "zero0", "zero1", "zero3_offload", "pipeline", "model"])
def test_engines_print_nothing(name: str) -> None:
    assert run_on_ranks(2, read_output, MODES[name]) == ["", ""]


def test_a_scalar_parameter_is_refused() -> None:
    model = make_model("mlp")
    model.scale = nn.Parameter(torch.ones(()))
    setup = TrainingSetup(model, CrossEntropy(), lambda p: AdamW(p), Constant())
    with pytest.raises(ValueError, match=r"scale of Mlp is a parameter of shape \[\], .* give it the shape \[1\]"):
        MODES["zero1"].engine().prepare(setup, EngineConfig(9, 1, None, "fp32", False, "cpu", 4, Topology(data=2)))


@pytest.mark.parametrize("name", ["single", "zero1"])
def test_fp16_is_refused_without_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    mode = MODES[name]
    engine_config = EngineConfig(9, 1, None, "fp16", False, "auto", 4)
    with pytest.raises(ValueError, match="precision=fp16 needs a GPU, but torch finds 0 here; use precision=bf16"):
        mode.engine().prepare(
            TrainingSetup(nn.Linear(5, 6), CrossEntropy(), lambda p: AdamW(p), Constant()), engine_config
        )
