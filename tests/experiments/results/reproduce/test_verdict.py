"""The tolerance of a reproduction, and its verdict."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from experiments.results.reproduce.verdict import choose_terms, judge
from experiments.run.metrics import MetricSeries
from experiments.trial.record import RunRecord

CONFIG: dict[str, Any] = {
    "name": "x",
    "seed": 0,
    "precision": "fp32",
    "determinism": "seeded",
    "parallel": {"_target_": "modules.parallel.single.Single"},
    "hardware": {"device": "cpu", "nodes": 1, "devices_per_node": 1, "cpu_threads": None, "cpu_cores": 4},
    "batch_size_per_device": None,
    "batch_size_eval": 500,
}
ENVIRONMENT: dict[str, Any] = {"python": "3.11.7", "cpu_threads": 2, "cpu_capability": "AVX2", "device_name": "cpu"}
ON_GPU: dict[str, Any] = ENVIRONMENT | {"device_name": "NVIDIA H100"}


def record(
    points: MetricSeries, config: dict[str, Any] | None = None, *, sampled: bool = False, **environment: Any
) -> RunRecord:
    complete = ENVIRONMENT | {"packages": {"torch": "2.13.0"}} | environment
    return RunRecord("r", "id", CONFIG | (config or {}), [], complete, {}, {"train/loss": points})


def curve(*, off: float = 0.0, at: int = 0, steps: int = 40) -> list[tuple[int, float]]:
    """A loss curve that differs by a relative distance from a step terms."""
    return [(step, (1 + (off if step >= at else 0)) / step) for step in range(1, steps + 1)]


def outcome(
    one: RunRecord,
    other: RunRecord,
    *,
    status: str = "finished",
    up_to: int | None = None,
    tolerance: float | None = None,
) -> str:
    terms = choose_terms(one, other, tolerance=tolerance, up_to=up_to)
    return judge(one, other, terms, status=status).outcome


def test_every_bit_counts_on_a_cpu_with_the_same_layout_and_threads() -> None:
    one = record(curve())
    assert choose_terms(one, one, tolerance=None, up_to=None).tolerance == 0
    assert outcome(one, record(curve())) == "identical"
    verdict = judge(
        one, record(curve(off=1e-15, at=30)), choose_terms(one, one, tolerance=None, up_to=None), status="finished"
    )
    assert (verdict.outcome, verdict.first_step, verdict.code) == ("different", 30, 1)
    assert "they differ from step 30" in verdict.sentence()
    assert outcome(one, record(curve(off=1e-15, at=30)), up_to=29) == "identical"


@pytest.mark.parametrize(
    ("config", "environment", "reason"),
    [
        ({"hardware": CONFIG["hardware"] | {"devices_per_node": 2}}, {}, "hardware.devices_per_node is 2 and was 1"),
        ({"parallel": {"_target_": "m.Zero", "stage": 2}}, {}, "parallel is zero stage=2 and was single"),
        ({"batch_size_per_device": 8}, {}, "batch_size_per_device is 8 and was null"),
        ({}, {"cpu_threads": 4}, "cpu_threads is 4 and was 2"),
        ({}, {"cpu_capability": "AVX512"}, "cpu_capability is AVX512 and was AVX2"),
        ({}, {"packages": {"torch": "2.14.0"}}, "torch is 2.14.0 and was 2.13.0"),
    ],
)
def test_rounding_is_allowed_in_early_steps_if_sums_have_another_order(
    config: dict[str, Any], environment: dict[str, Any], reason: str
) -> None:
    one = record(curve())
    terms = choose_terms(one, record([], config, **environment), tolerance=None, up_to=None)
    assert (list(terms.reasons), terms.tolerance, terms.judged_to) == ([reason], 1e-5, 20)
    assert outcome(one, record(curve(off=5e-6), config, **environment)) == "within tolerance"
    assert outcome(one, record(curve(off=5e-5, at=21), config, **environment)) == "within tolerance"
    assert outcome(one, record(curve(off=5e-5, at=20), config, **environment)) == "different"
    assert outcome(one, record(curve(), config, **environment)) == "identical"


@pytest.mark.parametrize(
    ("end", "problem"),
    [
        (0.1, "the results differ: val/accuracy is 0.99 and 0.1, by more than 20%"),
        (math.nan, "val/accuracy is a number in only one of the two"),
    ],
)
def test_a_different_last_value_is_different(end: float, problem: str) -> None:
    def ended(value: float, threads: int) -> RunRecord:
        base = record(curve(), cpu_threads=threads)
        return replace(base, streams={**base.streams, "val/accuracy": [(20, 0.5), (40, value)]})

    one, other = ended(0.99, 2), ended(end, 1)
    verdict = judge(one, other, choose_terms(one, other, tolerance=None, up_to=None), status="finished")
    assert (verdict.outcome, verdict.code) == ("different", 1)
    assert problem in verdict.sentence()
    assert outcome(one, ended(0.9, 1)) == "within tolerance"
    assert outcome(one, other, up_to=30) == "identical"  # up to the last compared step


def test_memory_and_other_sizes_of_the_machine_do_not_widen_the_tolerance() -> None:
    other = record([], {"hardware": CONFIG["hardware"] | {"cpu_cores": 64}}, python="3.12.1")
    assert choose_terms(record(curve()), other, tolerance=None, up_to=None).tolerance == 0


def test_precision_and_device_widen_the_tolerance() -> None:
    half = {"precision": "bf16", "batch_size_eval": 1}
    assert (
        choose_terms(record(curve(), {"precision": "bf16"}), record([], half), tolerance=None, up_to=None).tolerance
        == 2e-2
    )
    on_gpu = record(curve(), **ON_GPU)
    assert choose_terms(record(curve()), on_gpu, tolerance=None, up_to=None).tolerance == 1e-3
    again = choose_terms(on_gpu, on_gpu, tolerance=None, up_to=None)
    assert again.tolerance == 1e-5
    assert "in a fixed order only with" in again.reasons[0]
    bitwise = record(curve(), {"determinism": "bitwise"}, **ON_GPU)
    assert choose_terms(bitwise, bitwise, tolerance=None, up_to=None).tolerance == 0


def test_the_tolerance_of_the_user_applies_to_every_step() -> None:
    one = record(curve())
    assert outcome(one, record(curve(off=1e-3, at=40)), tolerance=1e-2) == "within tolerance"
    assert outcome(one, record(curve(off=1e-1, at=40)), tolerance=1e-2) == "different"


def test_missing_points_are_a_difference_unless_the_run_was_stopped() -> None:
    one = record(curve())
    assert outcome(one, record(curve(steps=39))) == "different"
    assert outcome(one, record(curve(steps=39)), up_to=39) == "identical"
    assert outcome(one, record(curve(steps=39)), status="interrupted") == "interrupted"
    assert outcome(one, record(curve(steps=39, off=0.1)), status="interrupted") == "different"
    assert outcome(record(curve(steps=39)), one) == "different"
    assert outcome(replace(record(curve(steps=40)[::7]), is_sampled=True), one) == "identical"
    assert outcome(one, record([])) == "different"


def test_sparse_points_are_compared_at_the_first_point() -> None:
    one, other = record(curve(steps=200)[49::50]), record(curve(steps=200, off=1e-4)[49::50], cpu_threads=1)
    terms = choose_terms(one, other, tolerance=None, up_to=None)
    assert terms.judged_to == 50
    assert judge(one, other, terms, status="finished").first_step == 50


def test_two_losses_that_are_nan_are_identical() -> None:
    one = record([(1, 1.0), (2, math.nan)])
    assert outcome(one, record([(1, 1.0), (2, math.nan)])) == "identical"
    verdict = judge(
        one, record([(1, 1.0), (2, 2.0)]), choose_terms(one, one, tolerance=None, up_to=None), status="finished"
    )
    assert (verdict.outcome, verdict.largest) == ("different", math.inf)


def test_other_data_is_different_whatever_the_metrics() -> None:
    one = record(curve())
    terms = choose_terms(one, one, tolerance=None, up_to=None)
    verdict = judge(one, record(curve()), terms, status="finished", data=["data: the split 'train' is another"])
    assert (verdict.outcome, verdict.code) == ("different", 1)
    assert "the split 'train' is another" in verdict.sentence()


@pytest.mark.parametrize(
    ("step", "tested", "expected"),
    [
        (40, 0.5, "identical"),
        (40, 0.6, "different"),
        (20, 0.6, "identical"),  # it measured the weights of step 20, and the original those of step 40
    ],
)
def test_an_original_of_an_earlier_version_is_compared_where_the_same_weights_were_measured(
    step: int, tested: float, expected: str
) -> None:
    one, other = record(curve()), record(curve())
    one = replace(one, streams={**one.streams, "test/x": [(40, 0.5)]})
    delivered = {"delivered/step": [(step, float(step))], "delivered/val/x": [(step, 1.0)], "test/x": [(step, tested)]}
    other = replace(other, streams={**other.streams, **delivered})
    assert outcome(one, other) == expected
    assert outcome(other, other) == "identical"


def test_a_repetition_on_another_machine_may_deliver_another_step() -> None:
    def delivering(step: int, value: float, threads: int) -> RunRecord:
        base = record(curve(), cpu_threads=threads)
        ended = {"delivered/step": [(step, float(step))], "delivered/val/x": [(step, value)], "test/x": [(step, value)]}
        return replace(base, streams={**base.streams, **ended})

    one = delivering(40, 0.9, 2)
    assert outcome(one, delivering(10, 0.89, 1)) == "within tolerance"
    assert outcome(one, delivering(10, 0.5, 1)) == "different"
    assert outcome(one, delivering(10, 0.9, 2)) == "different"
