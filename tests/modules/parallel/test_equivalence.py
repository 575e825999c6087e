"""One training in every mode: the same losses, norms, evaluation and weights as one process gives."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from torch.optim import SGD

from modules.parallel.topology import Topology
from tests.support.engines import MODELS, MODES, Mode, Outcome, Task, outcomes, train, train_each
from tests.support.ranks import alone, on_ranks

pytestmark = pytest.mark.slow

WITH_SGD = Task("gpt", optimizer=partial(SGD, lr=0.5))
NORMALISED = Task("inception_v3", num_steps=4, num_accumulation=2, optimizer=partial(SGD, lr=0.01))
"""A few steps of plain SGD: what is normalised over so few numbers parts at the last bit, and then for good."""
MATRIX = [
    "data", "data_4", "zero0", "zero1", "zero2", "zero3", "zero3_offload", "pipeline", "pipeline_3", "model",
    "pipeline_data", "model_data", "three_d",
]  # fmt: skip


def assert_alike(found: Outcome, expected: Outcome, *, losses: float = 1e-5) -> None:
    assert found.losses == pytest.approx(expected.losses, rel=losses)
    # A norm adds squares of numbers in another order; Adam divides by what is nearly 0, so weights may part farther.
    assert found.norms == pytest.approx(expected.norms, rel=1e-4)
    assert found.evaluation == pytest.approx(expected.evaluation, rel=1e-5)
    assert found.weights.keys() == expected.weights.keys()
    for name, weight in expected.weights.items():
        np.testing.assert_allclose(found.weights[name], weight, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("mode", MATRIX)
@pytest.mark.parametrize("model", MODELS)
def test_every_mode_gives_the_losses_of_one_process(model: str, mode: str) -> None:
    assert_alike(outcomes(mode)[model], outcomes("single")[model])


@pytest.mark.parametrize("model", MODELS)
def test_the_training_that_modes_are_held_against_learns(model: str) -> None:
    found = outcomes("single")[model]
    assert found.losses[18] < found.losses[0] - 0.01, "that is the same batch again"
    assert max(found.norms) > 0.12, "clipping has to have something to do"


@pytest.mark.parametrize("name", ["data", "zero2", "zero3", "model", "pipeline_data"])
def test_accumulation_and_no_clipping_change_nothing_in_any_mode(name: str) -> None:
    mode = MODES[name]
    for task in (Task("mlp", num_accumulation=8), Task("mlp", grad_clip_norm=None)):
        whole = alone(train, MODES["single"], Task("mlp", num_accumulation=1, grad_clip_norm=task.grad_clip_norm))
        found = on_ranks(mode.topology.world, train, mode, task)
        assert found[0].losses == pytest.approx(whole.losses, rel=1e-5)


@pytest.mark.parametrize("name", ["data", "zero1", "zero3", "pipeline", "pipeline_3", "pipeline_data"])
def test_auxiliary_classifiers_learn_in_every_mode_and_from_stage_to_stage(name: str) -> None:
    expected = alone(train, MODES["single"], Task("inception_v1"))
    found = on_ranks(MODES[name].topology.world, train, MODES[name], Task("inception_v1"))
    assert_alike(found[0], expected)
    assert expected.weights["auxiliary_4a.head.6.weight"].std() > 0.02, "it has learnt: it began with 0.01"


@pytest.mark.parametrize("name", ["data", "zero1", "pipeline", "pipeline_data"])
def test_batch_normalisation_over_the_same_micro_batches_gives_the_same_losses(name: str) -> None:
    expected = alone(train, MODES["single"], NORMALISED)
    found = on_ranks(MODES[name].topology.world, train, MODES[name], NORMALISED)
    assert found[0].losses == pytest.approx(expected.losses, rel=1e-5)
    assert found[0].norms == pytest.approx(expected.norms, rel=1e-4)


@pytest.mark.parametrize("name", ["data", "zero1", "zero3", "pipeline", "model"])
def test_an_optimizer_without_a_state_is_as_good(name: str) -> None:
    found = on_ranks(2, train, MODES[name], WITH_SGD)
    assert_alike(found[0], alone(train, MODES["single"], WITH_SGD))


@pytest.mark.parametrize("name", ["data", "zero1", "zero2", "zero3", "pipeline", "model"])
def test_bf16_computes_the_same_in_every_mode(name: str) -> None:
    task = Task("gpt", precision="bf16")
    expected = alone(train, MODES["single"], task)
    found = on_ranks(2, train, MODES[name], task)
    assert found[0].losses == pytest.approx(expected.losses, rel=2e-2)  # bf16 has 8 bits
    assert expected.losses != outcomes("single")["gpt"].losses


def test_stages_cut_by_time_or_evenly_train_alike() -> None:
    modes = [Mode("pipeline", Topology(pipe=2), partition=partition) for partition in ("uniform", "time", [0, 1])]
    tasks = [Task("gpt_tied"), Task("inception_v1")]
    (expected,) = on_ranks(1, train_each, MODES["single"], tasks)
    for mode in modes:
        (found, _) = on_ranks(2, train_each, mode, tasks)
        for own, other in zip(found, expected, strict=True):
            assert_alike(own, other)


def test_every_rank_sees_the_same_losses() -> None:
    found = on_ranks(4, train, MODES["pipeline_data"], Task("mlp"))
    assert all(rank.losses == found[0].losses and rank.norms == found[0].norms for rank in found)
    assert all(rank.evaluation == found[0].evaluation for rank in found)
    assert [bool(rank.weights) for rank in found] == [True, False, False, False]
