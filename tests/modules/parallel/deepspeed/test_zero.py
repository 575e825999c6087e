"""What could go wrong under ZeRO and in a pipeline besides the matrix: frozen weights, buffers, what is refused."""

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
from modules.parallel.base import Engine, EngineConfig, Rank, TrainingTask
from modules.parallel.topology import Topology
from modules.schedule.constant import Constant
from tests.support.engines import MODES, Mode, Task, make_batch, make_model, train, train_each
from tests.support.ranks import RankError, alone, on_ranks
from tests.support.variants import only_long


class Half(Mlp):
    """Its first layer is frozen, and it counts its steps in a buffer of whole numbers."""

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


def half(rank: Rank, mode: Mode) -> Engine:
    torch.manual_seed(0)
    engine = mode.engine()
    engine_config = EngineConfig(9, 1, 0.1, "fp32", False, "cpu", 4, mode.topology, rank)
    engine.prepare(TrainingTask(Half(), CrossEntropy(), lambda p: AdamW(p, lr=0.01), Constant()), engine_config)
    return engine


def steps(engine: Engine, rank: Rank, mode: Mode, first: int, last: int) -> None:
    place, share = mode.topology.coordinates(rank.number).data, 8 // mode.topology.data
    for step in range(first, last):
        inputs, targets = make_batch("mlp", step, 8)
        own = slice(place * share, (place + 1) * share)
        engine.train_step((inputs[own], targets[own]), step)


@pytest.fixture(scope="module")
def by_one_process(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_ranks(1, freeze, MODES["single"], tmp_path_factory.mktemp("single"))[0]


def freeze(rank: Rank, mode: Mode, folder: Path) -> list[dict[str, Any]]:
    """Weights after three steps, after five, and after five of which two came after a resume."""
    engine = half(rank, mode)
    steps(engine, rank, mode, 0, 3)
    if write := engine.snapshot():
        write(folder)
    engine.gather(0.0)
    found = [engine.weights()]
    steps(engine, rank, mode, 3, 5)
    found.append(engine.weights())
    engine = half(rank, mode)
    engine.load(folder)
    steps(engine, rank, mode, 3, 5)
    found.append(engine.weights())
    return [{name: tensor.numpy() for name, tensor in each.items()} for each in found]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data", "zero0", "zero1", "zero2", "zero3", "zero3_offload", "zero1_4"])
def test_frozen_weights_single_numbers_and_buffers_come_along(
    name: str, tmp_path: Path, by_one_process: list[dict[str, Any]]
) -> None:
    found = on_ranks(MODES[name].topology.world, freeze, MODES[name], tmp_path)[0]
    for own, single in zip(found, by_one_process, strict=True):
        assert own.keys() == single.keys()
        for key, weight in single.items():
            np.testing.assert_allclose(own[key], weight, rtol=1e-4, atol=1e-6, err_msg=key)
    assert [int(each["calls"]) for each in found] == [3, 5, 5]
    assert all(np.array_equal(found[2][key], weight) for key, weight in found[1].items()), "a resume is exact"
    moved = {key for key, weight in found[0].items() if not np.array_equal(weight, found[1][key])}
    assert moved == {"stack.4.weight", "stack.4.bias", "scale", "calls"}


LAYOUTS = [
    pytest.param(Mode("zero1_offload", Topology(data=2), stage=1, offload="optimizer"), marks=only_long),
    Mode("zero2_offload", Topology(data=2), stage=2, offload="optimizer"),
    Mode("zero3_offload", Topology(data=2), stage=3, offload="weights_and_optimizer"),
    Mode("zero0_model_data", Topology(data=2, model=2)),
    Mode("zero2_model_data", Topology(data=2, model=2), stage=2),
    Mode("zero3_model_data", Topology(data=2, model=2), stage=3),
    Mode("zero3_model", Topology(model=2), stage=3),
    Mode("zero3_alone", stage=3),
    Mode("zero1_uneven", Topology(data=4), stage=1),
    Mode("zero3_uneven", Topology(data=4), stage=3),
]
"""What the matrix leaves out: every stage with offload and with slices, and slices that parameters do not fill."""
CUT = 6


@pytest.mark.slow
@pytest.mark.parametrize("mode", LAYOUTS, ids=str)
def test_stages_slices_and_offload_go_together_and_resume_bit_for_bit(mode: Mode, tmp_path: Path) -> None:
    whole = [Task("gpt_tied", num_steps=2 * CUT), Task("mlp", num_steps=2 * CUT)]
    folders = [tmp_path / str(number) for number in range(len(whole))]
    tasks = [replace(task, save=folder, save_after=CUT) for task, folder in zip(whole, folders, strict=True)]
    tasks += [replace(task, first_step=CUT, load=folder) for task, folder in zip(whole, folders, strict=True)]
    found = on_ranks(mode.topology.world, train_each, mode, tasks)[0]
    for task, through, rest in zip(whole, found[:2], found[2:], strict=True):
        expected = alone(train, MODES["single"], task)
        assert through.losses == pytest.approx(expected.losses, rel=1e-5)
        assert through.norms == pytest.approx(expected.norms, rel=1e-4)
        assert rest.losses == through.losses[CUT:]
        assert all(np.array_equal(rest.weights[name], weight) for name, weight in through.weights.items())


def unfit(rank: Rank, mode: Mode) -> None:
    model: nn.Module = nn.Linear(5, 6)
    engine_config = EngineConfig(9, 1, None, "fp32", False, "cpu", 4, mode.topology, rank)
    mode.engine().prepare(TrainingTask(model, CrossEntropy(), lambda p: AdamW(p), Constant()), engine_config)


@pytest.mark.parametrize(("name", "told"), [("pipeline", "has no layers"), ("model", "has no shards")])
def test_a_model_that_does_not_fit_is_refused_by_every_rank(name: str, told: str) -> None:
    with pytest.raises(RankError) as caught:
        on_ranks(2, unfit, MODES[name])
    assert str(caught.value).count(told) == 2


def printed(rank: Rank, mode: Mode) -> str:
    train_each(rank, mode, [Task("gpt_tied", num_steps=2)])
    sys.stdout.flush()
    sys.stderr.flush()
    return Path(os.readlink("/proc/self/fd/1")).read_text()


@pytest.mark.parametrize("name", ["data", "zero0", "zero1", "zero3_offload", "pipeline", "model"])
def test_engines_have_nothing_to_say(name: str) -> None:
    assert on_ranks(2, printed, MODES[name]) == ["", ""]


def test_a_parameter_without_a_dimension_is_refused() -> None:
    model = make_model("mlp")
    model.scale = nn.Parameter(torch.ones(()))
    task = TrainingTask(model, CrossEntropy(), lambda p: AdamW(p), Constant())
    with pytest.raises(ValueError, match=r"scale of Mlp is a parameter of shape \[\], .* give it the shape \[1\]"):
        MODES["zero1"].engine().prepare(task, EngineConfig(9, 1, None, "fp32", False, "cpu", 4, Topology(data=2)))


@pytest.mark.parametrize("name", ["single", "zero1"])
def test_fp16_is_refused_without_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    mode = MODES[name]
    engine_config = EngineConfig(9, 1, None, "fp16", False, "auto", 4)
    with pytest.raises(ValueError, match="precision=fp16 needs a GPU, but torch finds 0 here; take precision=bf16"):
        mode.engine().prepare(
            TrainingTask(nn.Linear(5, 6), CrossEntropy(), lambda p: AdamW(p), Constant()), engine_config
        )
