"""Traces of real steps, and the metrics computed from traces."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from experiments.run import journal
from experiments.train.measurement.profiler import (
    NUM_TRACED,
    NUM_WARMUP,
    Profiler,
    count_flops,
    make_profile_metrics,
    sum_milliseconds,
)

if TYPE_CHECKING:
    from tests.conftest import Lathe


def event(name: str, begin: float, end: float, device: str = "CPU") -> Any:
    return SimpleNamespace(
        is_user_annotation=name == "step",
        name=name,
        time_range=SimpleNamespace(start=begin, end=end),
        device_type=SimpleNamespace(name=device),
    )


def test_spans_that_overlap_count_once() -> None:
    events = [
        event("step", 0, 4000), event("step", 4000, 10_000),
        event("aten::mm", 0, 1000), event("aten::mul", 500, 700), event("aten::add", 2000, 2500),
        event("gloo:all_reduce", 600, 1600), event("gloo:all_reduce", 1500, 2600), event("autograd", 0, 9000),
    ]  # fmt: skip
    assert sum_milliseconds(events) == {"step": 5.0, "compute": 0.75, "communication": 1.0}


def test_on_a_gpu_only_kernels_count() -> None:
    events = [
        event("step", 0, 4000), event("aten::mm", 0, 3000), event("gemm", 1000, 2000, "CUDA"),
        event("ncclDevKernel_AllReduce", 1500, 3000, "CUDA"), event("step", 0, 9000, "CUDA"),
    ]  # fmt: skip
    times = sum_milliseconds(events)
    assert (times["step"], times["communication"]) == (4.0, 1.5)


def test_metrics_are_means_and_values_of_each_rank() -> None:
    ranks = {"step": [10.0, 12.0], "compute": [4.0, 5.0], "communication": [3.0, 1.0]}
    metrics = make_profile_metrics(ranks, num_stages=2)
    assert metrics["perf/profiled_step_ms"] == 11.0
    assert metrics["perf/rank_1_profiled_compute_ms"] == 5.0
    assert metrics["perf/rank_0_profiled_communication_ms"] == 3.0
    assert metrics["perf/bubble_fraction"] == pytest.approx(1 - 4.5 / 11)
    assert "perf/bubble_fraction" not in make_profile_metrics(ranks, num_stages=1)


def test_a_training_too_short_for_a_trace_writes_none(tmp_path: Path) -> None:
    profiler = Profiler(tmp_path / "profile", 0, first_step=7)
    for step in range(7, 7 + NUM_WARMUP + NUM_TRACED - 1):
        with profiler.step(step):
            pass
        assert profiler.finish_trace(step) is None
    profiler.close()
    assert not (tmp_path / "profile").exists()


def test_deepspeed_counts_the_matrix_products(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(5, 7, bias=False), nn.Linear(7, 3, bias=False))
    params = count_flops(model, torch.zeros(2, 5), tmp_path)
    assert params == {"profile.forward_flops": 2 * 2 * (5 * 7 + 7 * 3), "profile.num_parameters": 56}
    assert "Linear" in (tmp_path / "work.txt").read_text()
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


@pytest.mark.slow
def test_a_profiled_run_of_two_ranks_has_traces_flops_and_step_times(lathe: Lathe, tmp_path: Path) -> None:
    done = lathe(
        "run", "model=mlp", "tracking=off", "max_steps=8", "profile=true", "parallel=pipeline",
        "hardware.devices_per_node=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = next(tmp_path.glob("runs/single/*"))
    events = journal.read(folder / "attempts" / "1" / "journal.jsonl")[0]
    metrics: dict[str, float] = {}
    for each in events:
        metrics |= each["metrics"] if each["event"] == "metrics" else {}
    assert 0 < metrics["perf/profiled_compute_ms"] < metrics["perf/profiled_step_ms"]
    assert metrics["perf/rank_1_profiled_communication_ms"] > 0
    assert 0 < metrics["perf/bubble_fraction"] < 1
    (artifact,) = [each["path"] for each in events if each["event"] == "artifact"]
    for rank in range(2):
        trace = json.loads(gzip.decompress((folder / artifact / f"trace_rank_{rank}.json.gz").read_bytes()))
        names = {each.get("name", "") for each in trace["traceEvents"]}
        assert "step" in names
        assert any(name.startswith("gloo:") for name in names)
    assert "params per GPU" in (folder / artifact / "work.txt").read_text()
