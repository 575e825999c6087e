"""Saved in one topology, resumed in another: by the same training as if nothing had been."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.engines import MODES, Task, outcomes, train
from tests.ranks import on_ranks

pytestmark = pytest.mark.slow

MODEL, CUT = "gpt_tied", 10
PAIRS = [
    ("single", "zero3"), ("zero3", "single"), ("data", "data_4"), ("data_4", "single"), ("zero1", "zero1_4"),
    ("zero1_4", "zero2"), ("zero1", "zero3"), ("zero0", "zero2"), ("zero3", "zero3_offload"), ("pipeline", "single"),
    ("single", "pipeline"), ("model", "single"), ("pipeline", "model"), ("pipeline", "pipeline_3"),
    ("model_data", "pipeline_data"), ("pipeline_data", "zero1"), ("three_d", "data"), ("zero2", "three_d"),
]  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A state after half of the training; saved once a mode, however many tests ask."""

    @functools.cache
    def state_of(mode: str) -> Path:
        folder = tmp_path_factory.mktemp("states") / mode
        on_ranks(MODES[mode].topology.world, train, MODES[mode], Task(MODEL, num_steps=CUT, save=folder))
        return folder

    return state_of


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_state_goes_on_in_another_topology(source: str, target: str, saved: Callable[[str], Path]) -> None:
    task = Task(MODEL, first_step=CUT, load=saved(source))
    found = on_ranks(MODES[target].topology.world, train, MODES[target], task)[0]
    expected = outcomes("single")[MODEL]
    assert found.losses == pytest.approx(expected.losses[CUT:], rel=1e-5)
    for name, weight in expected.weights.items():
        np.testing.assert_allclose(found.weights[name], weight, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "mode", ["single", "data", "zero0", "zero1", "zero2", "zero3", "pipeline", "model", "pipeline_data", "model_data"]
)
def test_in_the_same_topology_a_resume_is_bit_for_bit_the_same(mode: str, saved: Callable[[str], Path]) -> None:
    task = Task(MODEL, first_step=CUT, load=saved(mode))
    found = on_ranks(MODES[mode].topology.world, train, MODES[mode], task)[0]
    expected = outcomes(mode)[MODEL]
    assert found.losses == expected.losses[CUT:]
    assert found.norms == expected.norms[CUT:]
    for name, weight in expected.weights.items():
        assert np.array_equal(found.weights[name], weight), name


def test_every_mode_writes_the_same_files(saved: Callable[[str], Path]) -> None:
    names = {mode: sorted(path.name for path in saved(mode).iterdir()) for mode in ("single", "zero3", "three_d")}
    assert set(map(tuple, names.values())) == {("model.safetensors", "optimizer.json", "optimizer.safetensors")}
