"""The figure and the table of asynchronous replicas in a report."""

from __future__ import annotations

import pytest

from experiments.results.report import staleness
from experiments.results.report.findings import Findings, ReportRun, group_by_point
from experiments.results.report.metric_history import Series
from experiments.results.report.tables import make_replicas_table

METRIC = "val/accuracy_top1"


def series(*points: tuple[int, float]) -> Series:
    result = Series()
    for step, value in points:
        result.add(step, value)
    return result


def run(number: int, *, served: bool) -> ReportRun:
    metrics = {
        METRIC: series((10, 0.5), (25, 0.75)), "perf/step_time_ms": series((1, 2000.0), (10, 1000.0), (20, 500.0), (25, 100.0)),
    }  # fmt: skip
    if served:
        metrics |= {f"async/stale_fraction/{key}": series((10, 0.25)) for key in ("0", "1", "8_or_more")}
        metrics["perf/updates_per_s"] = series((10, 12.0))
        metrics |= {
            "async/pushed_mib": series((10, 30.0), (20, 30.0)),
            "async/pulled_mib": series((10, 10.0), (20, 50.0)),
        }
        metrics |= {f"async/replica_{pusher}_examples_per_s": series((10, 50.0 - 30 * pusher)) for pusher in (0, 1)}
    return ReportRun(
        f"run{number}", f"run{number}", number, {"parallel": "async" if served else "data"}, 0, "finished", 0.75, 25, 25, 1,
        9.0, None, None, None, "", metrics,
    )  # fmt: skip


def findings(*runs: ReportRun) -> Findings:
    points = group_by_point(runs, "max")
    return Findings(
        "sweep",
        "probe",
        "",
        "",
        "",
        METRIC,
        "max",
        {"parallel": "parallel"},
        points,
        points[0],
        None,
        None,
        None,
        0.0,
        None,
        2,
    )


def test_training_time_is_the_sum_of_step_times() -> None:
    curve = staleness._compute_time_curve(run(0, served=True), METRIC)
    assert [value for _, value in curve] == [0.5, 0.75]
    assert [seconds for seconds, _ in curve] == pytest.approx([2 + 9, 2 + 9 + 5 + 0.5])


def test_figure_needs_a_run_with_parameter_servers() -> None:
    assert staleness.draw(findings(run(0, served=False))) is None
    assert staleness.draw(findings(run(0, served=False), run(1, served=True))) is not None


def test_table_shows_servers_and_replicas() -> None:
    table = make_replicas_table(findings(run(0, served=False), run(1, served=True)))
    (row,) = table.rows
    texts = {column.name: cell.text for column, cell in zip(table.columns, row, strict=True)}
    assert (texts["parallel"], texts["updates/s"], texts["run"]) == ("async", "12", "run1")
    assert texts["MiB per step, pushed and pulled"] == "6"  # 60 in a point of 10 steps
    assert (texts["examples/s of the slowest replica"], texts["of the fastest"]) == ("20", "50")
    assert texts["servers' busy share"] == ""  # not in this journal
