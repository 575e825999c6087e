"""Every mode gives the same losses, norms, evaluation and weights as one process."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from torch.optim import SGD

from modules.parallel.topology import Topology
from tests.support.engines import (
    COMBINED_MODES,
    FEW_MODELS,
    MODELS,
    MODES,
    Mode,
    Task,
    TrainingResult,
    train,
    train_all_models,
    train_each,
)
from tests.support.ranks import run_alone, run_on_ranks
from tests.support.variants import only_long

pytestmark = pytest.mark.slow

WITH_SGD = Task("gpt", optimizer=partial(SGD, lr=0.5))
WITH_BATCH_NORM = Task("inception_v3", num_steps=4, num_accumulation=2, optimizer=partial(SGD, lr=0.01))
"""A few steps of plain SGD: with batch statistics of so few values, rounding errors grow fast."""
MATRIX = [
    "data", "data_4", "zero0", "zero1", "zero2", "zero3", "zero3_offload", "pipeline", "pipeline_3", "model",
    "pipeline_data", "model_data", "three_d",
]  # fmt: skip


def assert_alike(result: TrainingResult, expected: TrainingResult, *, losses: float = 1e-5) -> None:
    assert result.losses == pytest.approx(expected.losses, rel=losses)
    # A norm sums in another order, and Adam divides by values near 0, so the tolerance for weights is larger.
    assert result.norms == pytest.approx(expected.norms, rel=1e-4)
    assert result.evaluation == pytest.approx(expected.evaluation, rel=1e-5)
    assert result.weights.keys() == expected.weights.keys()
    for name, weight in expected.weights.items():
        np.testing.assert_allclose(result.weights[name], weight, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("model", "mode"),
    [
        pytest.param(model, mode, marks=only_long if mode in COMBINED_MODES and model not in FEW_MODELS else ())
        for model in MODELS
        for mode in MATRIX
    ],
)
def test_every_mode_gives_the_losses_of_one_process(model: str, mode: str) -> None:
    assert_alike(train_all_models(mode)[model], train_all_models("single")[model])


@pytest.mark.parametrize("model", MODELS)
def test_the_reference_training_learns(model: str) -> None:
    result = train_all_models("single")[model]
    assert result.losses[9] < result.losses[0] - 0.01, "steps 0 and 9 have the same batch"
    assert max(result.norms) > 0.12, "some steps must be clipped"


@pytest.mark.parametrize("name", ["data", "zero2", "zero3", "model", "pipeline_data"])
def test_accumulation_and_clipping_off_give_the_losses_of_one_process(name: str) -> None:
    mode = MODES[name]
    for task in (Task("mlp", num_accumulation=8), Task("mlp", grad_clip_norm=None)):
        whole = run_alone(train, MODES["single"], Task("mlp", num_accumulation=1, grad_clip_norm=task.grad_clip_norm))
        results = run_on_ranks(mode.topology.world, train, mode, task)
        assert results[0].losses == pytest.approx(whole.losses, rel=1e-5)


@pytest.mark.parametrize(
    "name", ["data", "zero1", "zero3", pytest.param("pipeline", marks=only_long), "pipeline_3", "pipeline_data"]
)
def test_auxiliary_classifiers_learn_in_every_mode(name: str) -> None:
    expected = run_alone(train, MODES["single"], Task("inception_v1"))
    results = run_on_ranks(MODES[name].topology.world, train, MODES[name], Task("inception_v1"))
    assert_alike(results[0], expected)
    assert expected.weights["auxiliary_4a.head.6.weight"].std() > 0.015, "it has learnt: its initial value is 0.01"


@pytest.mark.parametrize("name", ["data", "zero1", "pipeline", "pipeline_data"])
def test_batch_normalisation_over_the_same_micro_batches_gives_the_same_losses(name: str) -> None:
    expected = run_alone(train, MODES["single"], WITH_BATCH_NORM)
    results = run_on_ranks(MODES[name].topology.world, train, MODES[name], WITH_BATCH_NORM)
    assert results[0].losses == pytest.approx(expected.losses, rel=1e-5)
    assert results[0].norms == pytest.approx(expected.norms, rel=1e-4)


@pytest.mark.parametrize("name", ["data", "zero1", "zero3", "pipeline", "model"])
def test_an_optimizer_without_state_gives_the_results_of_one_process(name: str) -> None:
    results = run_on_ranks(2, train, MODES[name], WITH_SGD)
    assert_alike(results[0], run_alone(train, MODES["single"], WITH_SGD))


@pytest.mark.parametrize(
    "name", ["data", "zero1", pytest.param("zero2", marks=only_long), "zero3", "pipeline", "model"]
)
def test_bf16_gives_the_losses_of_one_process(name: str) -> None:
    task = Task("gpt", precision="bf16")
    expected = run_alone(train, MODES["single"], task)
    results = run_on_ranks(2, train, MODES[name], task)
    assert results[0].losses == pytest.approx(expected.losses, rel=2e-2)  # bf16 has 8 bits
    assert expected.losses != train_all_models("single")["gpt"].losses


def test_stages_cut_by_time_or_evenly_train_alike() -> None:
    modes = [Mode("pipeline", Topology(pipe=2), partition=partition) for partition in ("uniform", "time", [0, 1])]
    tasks = [Task("gpt_tied"), Task("inception_v1")]
    (expected,) = run_on_ranks(1, train_each, MODES["single"], tasks)
    for mode in modes:
        (results, _) = run_on_ranks(2, train_each, mode, tasks)
        for own, other in zip(results, expected, strict=True):
            assert_alike(own, other)


def test_every_rank_gets_the_same_losses() -> None:
    results = run_on_ranks(4, train, MODES["pipeline_data"], Task("mlp"))
    assert all(rank.losses == results[0].losses and rank.norms == results[0].norms for rank in results)
    assert all(rank.evaluation == results[0].evaluation for rank in results)
    assert [bool(rank.weights) for rank in results] == [True, False, False, False]
