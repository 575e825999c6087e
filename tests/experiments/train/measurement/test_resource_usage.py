"""The resource metrics of a run."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from experiments.run.history import PreviousAttempts, read_previous_attempts
from experiments.run.journal import Journal
from experiments.train.measurement.energy import EnergyMeter
from experiments.train.measurement.resource_usage import ResourceUsage
from tests.conftest import Lathe


def make_usage(
    *, every_s: float | None = None, before: PreviousAttempts | None = None, first_step: int = 0, devices: int = 1
) -> ResourceUsage:
    return ResourceUsage(every_s, devices, 4e9, 2e10, before or PreviousAttempts(), first_step, on_gpu=False)


def test_mfu_is_flops_per_second_divided_by_the_peak() -> None:
    assert make_usage().step_metrics(7, 0.5) == {"perf/mfu": pytest.approx(4e9 / 0.5 / 2e10)}
    assert make_usage(devices=4).step_metrics(7, 0.5) == {"perf/mfu": pytest.approx(4e9 / 0.5 / 8e10)}
    assert ResourceUsage(None, 1, None, 2e10, PreviousAttempts(), 0, on_gpu=False).step_metrics(7, 0.5) == {}


def test_the_time_to_the_first_step_is_logged_once_per_attempt() -> None:
    resumed = make_usage(first_step=30)
    assert "perf/time_to_first_step_s" in resumed.step_metrics(31, 0.5)
    assert "perf/time_to_first_step_s" not in resumed.step_metrics(32, 0.5)


def test_cores_and_memory_are_those_of_this_process() -> None:
    sampled = make_usage(every_s=1e-9)
    begin = time.process_time()
    while time.process_time() - begin < 0.2:
        pass
    metrics = sampled.step_metrics(9, 0.5)
    assert 0.1 < metrics["system/cpu_cores_used"] < (os.cpu_count() or 1) + 0.5
    assert 0.01 < metrics["system/memory_gib"] < 20
    assert "system/memory_gib" not in make_usage(every_s=1000).step_metrics(9, 0.5)


def test_totals_continue_from_previous_attempts_and_are_logged_once_per_step() -> None:
    before = PreviousAttempts(step=50, device_h=2.0, cpu_s=1e6, energy_wh=1.0, wasted_steps=3)
    resumed = make_usage(before=before, first_step=40, devices=2)
    metrics = resumed.total_metrics(60, lambda value: [value, value])
    assert metrics["cost/wasted_steps"] == 3 + 10
    assert 2.0 < metrics["cost/device_h"] < 50.0  # it counts from the start of this process
    assert 0 < metrics["cost/cpu_s"] - 1e6 < 1e6
    assert resumed.total_metrics(60, lambda value: [value]) == {}
    assert make_usage(before=before, first_step=50).total_metrics(60, lambda value: [value])["cost/wasted_steps"] == 3


def test_previous_attempts_are_summed_from_their_journals(tmp_path: Path) -> None:
    for attempt, points in ((1, [(10, 1.0), (20, 2.5)]), (2, [(15, 3.0)])):
        with Journal(tmp_path / "attempts" / str(attempt) / "journal.jsonl") as journal:
            journal.data(name="digits", digest=f"d{attempt}", num_examples=3, split="train")
            for step, hours in points:
                journal.metrics(step, {"train/loss": 1.0, "perf/step_time_ms": 2.0})
                journal.metrics(
                    step, {"cost/device_h": hours, "cost/cpu_s": 9 * hours, "cost/wasted_steps": float(attempt - 1)}
                )
    assert read_previous_attempts(tmp_path, 3) == PreviousAttempts(
        {"train": "d2"}, step=20, device_h=3.0, cpu_s=27.0, wasted_steps=1
    )
    assert read_previous_attempts(tmp_path, 2) == PreviousAttempts({"train": "d1"}, step=20, device_h=2.5, cpu_s=22.5)


def test_energy_is_correct_when_a_counter_wraps_around(tmp_path: Path) -> None:
    for name in ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1"):  # the second is part of the first
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text("9000000\n")
        (tmp_path / name / "max_energy_range_uj").write_text("10000000\n")
    meter = EnergyMeter(None, tmp_path)
    assert meter.read() == 0
    for package, microjoules in ((0, 2_000_000), (1, 9_500_000)):
        (tmp_path / f"intel-rapl:{package}" / "energy_uj").write_text(f"{microjoules}\n")
    assert meter.read() == pytest.approx(3.0 + 0.5)
    assert EnergyMeter(None, tmp_path / "none").read() is None


@pytest.mark.slow
def test_a_resumed_run_logs_its_cost_over_both_attempts(lathe: Lathe, tmp_path: Path) -> None:
    base = ("model=softmax", "tracking=off", "max_steps=40", "eval_every_steps=10", "checkpoint.keep_last=5")
    measured = ("checkpoint.every_steps=20", "hardware.peak_tflops=0.1", "system_every_s=0.001")
    assert lathe("run", *base, *measured).returncode == 0
    folder = next((tmp_path / "runs" / "single").glob("*/"))
    first = read_last_metrics(folder, 1)
    assert 0 < first["perf/mfu"] < 1
    assert first["perf/time_to_first_step_s"] > 0
    assert first["system/memory_gib"] > 0
    assert first["cost/wasted_steps"] == 0
    # Make it look as if the machine had crashed after step 30.
    for path in (folder / "outcome.json", *folder.glob("checkpoints/step_000000[34]0/*.json")):
        path.unlink()
    journal = folder / "attempts" / "1" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if json.loads(line).get("step", 0) <= 30))
    done = lathe("resume", folder.name)
    assert done.returncode == 0, done.stderr
    assert read_last_metrics(folder, 2)["cost/wasted_steps"] == 10
    assert read_last_metrics(folder, 2)["cost/device_h"] > read_last_metrics(folder, 1)["cost/device_h"] > 0


def read_last_metrics(folder: Path, attempt: int) -> dict[str, float]:
    """Return the last value of each metric of one attempt."""
    values: dict[str, float] = {}
    for line in (folder / "attempts" / str(attempt) / "journal.jsonl").read_text().splitlines():
        event = json.loads(line)
        values |= event["metrics"] if event["event"] == "metrics" else {}
    return values
