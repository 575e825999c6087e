"""A training that is saved in one topology and resumed in another gives the same results."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.engines import MODES, Task, TrainingResult, train
from tests.support.ranks import run_on_ranks
from tests.support.variants import only_long

pytestmark = pytest.mark.slow

MODEL, CUT = "gpt_tied", 5
PAIRS = [
    ("single", "zero3"), ("zero3", "single"), ("data", "data_4"), ("zero1", "zero1_4"), ("zero1_4", "zero2"),
    ("zero3", "zero3_offload"), ("single", "pipeline"), ("pipeline", "model"), ("pipeline", "pipeline_3"),
    ("model_data", "pipeline_data"), ("pipeline_data", "zero1"), ("three_d", "data"), ("zero2", "three_d"),
    *(
        pytest.param(*pair, marks=only_long)
        for pair in [("data_4", "single"), ("zero1", "zero3"), ("zero0", "zero2"), ("pipeline", "single"), ("model", "single")]
    ),
]  # fmt: skip


Trainings = Callable[[str], tuple[Path, TrainingResult]]


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    """By mode: the state after half of a training, and the result of the whole training; cached."""

    @functools.cache
    def run_training(mode: str) -> tuple[Path, TrainingResult]:
        folder = tmp_path_factory.mktemp("states") / mode
        task = Task(MODEL, save=folder, save_after=CUT)
        return folder, run_on_ranks(MODES[mode].topology.world, train, MODES[mode], task)[0]

    return run_training


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_state_resumes_in_another_topology(source: str, target: str, trainings: Trainings) -> None:
    state, _ = trainings(source)
    task = Task(MODEL, first_step=CUT, load=state)
    result = run_on_ranks(MODES[target].topology.world, train, MODES[target], task)[0]
    _, expected = trainings("single")
    assert result.losses == pytest.approx(expected.losses[CUT:], rel=1e-5)
    for name, weight in expected.weights.items():
        np.testing.assert_allclose(result.weights[name], weight, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "mode", ["single", "data", "zero0", "zero1", "zero2", "zero3", "pipeline", "model", "pipeline_data", "model_data"]
)
def test_in_the_same_topology_a_resume_is_bit_for_bit_the_same(mode: str, trainings: Trainings) -> None:
    state, expected = trainings(mode)
    task = Task(MODEL, first_step=CUT, load=state)
    result = run_on_ranks(MODES[mode].topology.world, train, MODES[mode], task)[0]
    assert result.losses == expected.losses[CUT:]
    assert result.norms == expected.norms[CUT:]
    for name, weight in expected.weights.items():
        assert np.array_equal(result.weights[name], weight), name


def test_every_mode_writes_the_same_files(trainings: Trainings) -> None:
    names = {
        mode: sorted(path.name for path in trainings(mode)[0].iterdir()) for mode in ("single", "zero3", "three_d")
    }
    assert set(map(tuple, names.values())) == {("model.safetensors", "optimizer.json", "optimizer.safetensors")}
