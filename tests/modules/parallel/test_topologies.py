"""Saved in one topology, resumed in another: by the same training as if nothing had been."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.engines import MODES, Outcome, Task, train
from tests.support.ranks import on_ranks

pytestmark = pytest.mark.slow

MODEL, CUT = "gpt_tied", 10
PAIRS = [
    ("single", "zero3"), ("zero3", "single"), ("data", "data_4"), ("data_4", "single"), ("zero1", "zero1_4"),
    ("zero1_4", "zero2"), ("zero1", "zero3"), ("zero0", "zero2"), ("zero3", "zero3_offload"), ("pipeline", "single"),
    ("single", "pipeline"), ("model", "single"), ("pipeline", "model"), ("pipeline", "pipeline_3"),
    ("model_data", "pipeline_data"), ("pipeline_data", "zero1"), ("three_d", "data"), ("zero2", "three_d"),
]  # fmt: skip


Trainings = Callable[[str], tuple[Path, Outcome]]


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    """By mode: the state after half of a training, and the whole of it; trained once, however many tests ask."""

    @functools.cache
    def training_of(mode: str) -> tuple[Path, Outcome]:
        folder = tmp_path_factory.mktemp("states") / mode
        task = Task(MODEL, save=folder, save_after=CUT)
        return folder, on_ranks(MODES[mode].topology.world, train, MODES[mode], task)[0]

    return training_of


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_state_goes_on_in_another_topology(source: str, target: str, trainings: Trainings) -> None:
    state, _ = trainings(source)
    task = Task(MODEL, first_step=CUT, load=state)
    found = on_ranks(MODES[target].topology.world, train, MODES[target], task)[0]
    _, expected = trainings("single")
    assert found.losses == pytest.approx(expected.losses[CUT:], rel=1e-5)
    for name, weight in expected.weights.items():
        np.testing.assert_allclose(found.weights[name], weight, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "mode", ["single", "data", "zero0", "zero1", "zero2", "zero3", "pipeline", "model", "pipeline_data", "model_data"]
)
def test_in_the_same_topology_a_resume_is_bit_for_bit_the_same(mode: str, trainings: Trainings) -> None:
    state, expected = trainings(mode)
    task = Task(MODEL, first_step=CUT, load=state)
    found = on_ranks(MODES[mode].topology.world, train, MODES[mode], task)[0]
    assert found.losses == expected.losses[CUT:]
    assert found.norms == expected.norms[CUT:]
    for name, weight in expected.weights.items():
        assert np.array_equal(found.weights[name], weight), name


def test_every_mode_writes_the_same_files(trainings: Trainings) -> None:
    names = {
        mode: sorted(path.name for path in trainings(mode)[0].iterdir()) for mode in ("single", "zero3", "three_d")
    }
    assert set(map(tuple, names.values())) == {("model.safetensors", "optimizer.json", "optimizer.safetensors")}
