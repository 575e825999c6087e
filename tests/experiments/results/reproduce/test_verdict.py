"""On what terms one run repeats another, and what the verdict is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from experiments.results.reproduce.verdict import judge, terms
from experiments.run.metrics import MetricSeries
from experiments.trial.record import CodeRecord

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
) -> CodeRecord:
    told = ENVIRONMENT | {"packages": {"torch": "2.13.0"}} | environment
    return CodeRecord("r", "id", CONFIG | (config or {}), [], told, {}, {"train/loss": points})


def curve(*, off: float = 0.0, at: int = 0, steps: int = 40) -> list[tuple[int, float]]:
    """A loss of so many steps, off by a relative distance from a step on."""
    return [(step, (1 + (off if step >= at else 0)) / step) for step in range(1, steps + 1)]


def word(
    one: CodeRecord,
    other: CodeRecord,
    *,
    ended: str = "finished",
    up_to: int | None = None,
    tolerance: float | None = None,
) -> str:
    on = terms(one, other, tolerance=tolerance, up_to=up_to)
    return judge(one, other, on, ended=ended).word


def test_on_a_cpu_with_the_same_layout_and_threads_every_bit_counts() -> None:
    one = record(curve())
    assert terms(one, one, tolerance=None, up_to=None).tolerance == 0
    assert word(one, record(curve())) == "identical"
    verdict = judge(one, record(curve(off=1e-15, at=30)), terms(one, one, tolerance=None, up_to=None), ended="finished")
    assert (verdict.word, verdict.first_step, verdict.code) == ("different", 30, 1)
    assert "they part at step 30" in verdict.sentence()
    assert word(one, record(curve(off=1e-15, at=30)), up_to=29) == "identical"


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
def test_where_sums_are_made_in_another_order_rounding_is_allowed_at_the_beginning(
    config: dict[str, Any], environment: dict[str, Any], reason: str
) -> None:
    one = record(curve())
    on = terms(one, record([], config, **environment), tolerance=None, up_to=None)
    assert (list(on.reasons), on.tolerance, on.judged_to) == ([reason], 1e-5, 20)
    assert word(one, record(curve(off=5e-6), config, **environment)) == "within tolerance"
    assert word(one, record(curve(off=5e-5, at=21), config, **environment)) == "within tolerance"
    assert word(one, record(curve(off=5e-5, at=20), config, **environment)) == "different"
    assert word(one, record(curve(), config, **environment)) == "identical"


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (0.1, "they end apart: val/accuracy is 0.99 and 0.1, more than 20%"),
        (math.nan, "val/accuracy is a number in one of the two alone"),
    ],
)
def test_what_begins_alike_and_ends_elsewhere_is_different(end: float, told: str) -> None:
    def ended(value: float, threads: int) -> CodeRecord:
        found = record(curve(), cpu_threads=threads)
        return replace(found, streams={**found.streams, "val/accuracy": [(20, 0.5), (40, value)]})

    one, other = ended(0.99, 2), ended(end, 1)
    verdict = judge(one, other, terms(one, other, tolerance=None, up_to=None), ended="finished")
    assert (verdict.word, verdict.code) == ("different", 1)
    assert told in verdict.sentence()
    assert word(one, ended(0.9, 1)) == "within tolerance"
    assert word(one, other, up_to=30) == "identical"  # as far as it was looked at


def test_what_only_tells_how_large_a_machine_is_allows_nothing() -> None:
    other = record([], {"hardware": CONFIG["hardware"] | {"cpu_cores": 64}}, python="3.12.1")
    assert terms(record(curve()), other, tolerance=None, up_to=None).tolerance == 0


def test_precision_and_device_widen_the_tolerance() -> None:
    half = {"precision": "bf16", "batch_size_eval": 1}
    assert terms(record(curve(), {"precision": "bf16"}), record([], half), tolerance=None, up_to=None).tolerance == 2e-2
    on_gpu = record(curve(), **ON_GPU)
    assert terms(record(curve()), on_gpu, tolerance=None, up_to=None).tolerance == 1e-3
    again = terms(on_gpu, on_gpu, tolerance=None, up_to=None)
    assert again.tolerance == 1e-5
    assert "no fixed order" in again.reasons[0]
    bitwise = record(curve(), {"determinism": "bitwise"}, **ON_GPU)
    assert terms(bitwise, bitwise, tolerance=None, up_to=None).tolerance == 0


def test_the_users_tolerance_holds_for_every_step() -> None:
    one = record(curve())
    assert word(one, record(curve(off=1e-3, at=40)), tolerance=1e-2) == "within tolerance"
    assert word(one, record(curve(off=1e-1, at=40)), tolerance=1e-2) == "different"


def test_points_that_only_one_has_make_a_difference_unless_it_was_to_stop() -> None:
    one = record(curve())
    assert word(one, record(curve(steps=39))) == "different"
    assert word(one, record(curve(steps=39)), up_to=39) == "identical"
    assert word(one, record(curve(steps=39)), ended="stopped") == "stopped"
    assert word(one, record(curve(steps=39, off=0.1)), ended="stopped") == "different"
    assert word(record(curve(steps=39)), one) == "different"
    assert word(replace(record(curve(steps=40)[::7]), is_sampled=True), one) == "identical"
    assert word(one, record([])) == "different"


def test_sparse_points_are_judged_at_the_first_of_them() -> None:
    one, other = record(curve(steps=200)[49::50]), record(curve(steps=200, off=1e-4)[49::50], cpu_threads=1)
    on = terms(one, other, tolerance=None, up_to=None)
    assert on.judged_to == 50
    assert judge(one, other, on, ended="finished").first_step == 50


def test_a_loss_that_is_no_number_is_repeated_by_one_that_is_none() -> None:
    one = record([(1, 1.0), (2, math.nan)])
    assert word(one, record([(1, 1.0), (2, math.nan)])) == "identical"
    verdict = judge(one, record([(1, 1.0), (2, 2.0)]), terms(one, one, tolerance=None, up_to=None), ended="finished")
    assert (verdict.word, verdict.largest) == ("different", math.inf)


def test_with_other_data_it_is_another_run_whatever_its_metrics() -> None:
    one = record(curve())
    on = terms(one, one, tolerance=None, up_to=None)
    verdict = judge(one, record(curve()), on, ended="finished", data=["data: the split 'train' is another"])
    assert (verdict.word, verdict.code) == ("different", 1)
    assert "the split 'train' is another" in verdict.sentence()
