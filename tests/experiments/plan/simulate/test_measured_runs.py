"""Runs of ours that were recorded (`python -m benchmarks.simulator --record`), predicted from the ones with one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.simulator import BUDGET, comparisons
from experiments.plan.simulate.from_run import RecordedRun

RECORDED: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "recorded.yaml").read_text())
FIELDS = ("name", "mode", "workers", "batch_size", "num_parameters", "step_s", "parts_ms")


@pytest.mark.parametrize("workload", RECORDED["workloads"])
def test_throughput_of_two_and_four_processes_follows_from_one(workload: str) -> None:
    result = RECORDED["workloads"][workload]
    runs = [RecordedRun(**{key: run[key] for key in FIELDS if key in run}) for run in result["runs"]]
    measured = {run["workers"]: run["examples_per_s"] for run in result["runs"]}
    pairs = [pair for pair in comparisons(runs, result["cores_measured"]) if pair[0].workers == 1]
    assert [other.workers for _, other, _ in pairs] == [2, 4]
    for _, other, simulated in pairs:
        assert simulated == pytest.approx(measured[other.workers], rel=BUDGET)
