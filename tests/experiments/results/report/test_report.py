"""The report of a sweep and of runs, checked against the ledger and the journals that it comes from."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import socket
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from experiments.core.errors import InputError
from experiments.results.report.cost import format_device_time
from experiments.results.report.from_runs import collect_from_runs
from experiments.results.report.from_sweep import collect_from_sweep
from experiments.results.report.importance import Importance, compute_importance
from experiments.results.report.metric_history import MAX_POINTS, Series
from experiments.results.report.report import report, select_runs
from experiments.run.journal import Journal
from experiments.sweep.status.progress import read_progress
from experiments.sweep.sweep import Sweep
from experiments.tracking.sweep_sync import SweepSync
from experiments.trial.trial import Trial
from tests.conftest import Lathe
from tests.support import ledgers, stores
from tests.support.recorded_sweeps import METRIC, VALUE, make_swept, run_trial, start_trial
from tests.support.stores import make_run
from tests.support.waiting import PATIENCE_S

HOSTILE = "<script>alert('x')</script>\"&`|$y$ 日本"


def reported(sweep: Sweep, output: Path | None = None) -> str:
    """Report a sweep as the command does; return the page."""
    args = argparse.Namespace(
        runs=[str(sweep.folder)], output=str(output) if output else None, runs_dir=str(sweep.runs_dir)
    )
    assert report(args) == 0
    return ((output or sweep.folder / "report") / "report.html").read_text()


def make_grid(runs_dir: Path) -> Sweep:
    """Make a finished sweep of three learning rates by two batch sizes, with two seeds each."""
    points = [{"optimizer.lr": lr, "batch_size_global": size} for lr in (0.001, 0.01, 0.1) for size in (16, 256)]
    sweep = make_swept(runs_dir, points, seeds=2, sync="off")
    for number, trial in enumerate(ledgers.ids(12)):
        run_trial(sweep, trial, 0.5 + number / 100, steps=(50, 100, 200))
    return sweep


class _Tables(HTMLParser):
    """Parses the tables of a page, each a list of rows of texts."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._is_in = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._is_in = True
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._is_in = self._is_in and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._is_in:
            self.tables[-1][-1][-1] += data


def rows_of(page: str, first: str) -> list[dict[str, str]]:
    """Return the rows of the last table whose first column has this name."""
    parser = _Tables()
    parser.feed(page)
    head, *rows = next(table for table in reversed(parser.tables) if table[0][0] == first)
    return [dict(zip(head, row, strict=True)) for row in rows]


def section(page: str, name: str) -> str:
    return page.partition(f'<section id="{name}"')[2].partition("</section>")[0]


def test_numbers_of_the_page_are_those_of_the_ledger(tmp_path: Path) -> None:
    sweep = make_grid(tmp_path)
    page, progress = reported(sweep), read_progress(sweep, sweep.ledger())
    rows = {row["trial"]: row for row in rows_of(page, "trial")}
    assert set(rows) == {row.id for row in progress.rows}
    for row in progress.rows:
        assert row.value is not None
        assert rows[row.id][VALUE] == f"{row.value:.2f}"
        assert float(rows[row.id]["lr"]) == row.values["optimizer.lr"]
        assert rows[row.id]["batch_size_global"] == str(row.values["batch_size_global"])
        assert rows[row.id]["seed"] == str(row.seed)
        assert (rows[row.id]["attempts"], rows[row.id]["step"]) == ("1", "200")
    assert progress.best is not None
    assert progress.best.value == pytest.approx(0.605)
    best = section(page, "best")
    assert "optimizer.lr=0.1 batch_size_global=256" in best
    assert "<strong>0.605</strong>, the mean of 2 seeds" in best
    assert f"lathe reproduce {sweep.folder}/b00000000011" in best
    assert all(f'href="#trial-{trial}"' in best and f'id="trial-{trial}"' in page for trial in progress.best.trials)
    assert "<dt>attempts</dt><dd>12 <small>for 12 trials</small>" in page


def test_means_and_deviations_over_seeds_are_on_the_page_and_in_markdown(tmp_path: Path) -> None:
    sweep = make_grid(tmp_path)
    page = reported(sweep)
    first = rows_of(section(page, "points"), "lr")[0]
    assert (first["lr"], first["batch_size_global"], first[VALUE], first["± std"]) == ("0.1", "256", "0.605", "0.0071")
    assert (first["seeds"], first["trials"]) == ("2/2", "b00000000010, b00000000011")
    lines = (sweep.folder / "report" / "table.md").read_text().splitlines()
    assert lines[4].startswith("| lr | batch_size_global | delivered/val/accuracy_top1 | ± std | ± 95 % | seeds |")
    assert lines[6].startswith("| 0.1 | 256 | **0.605** | 0.0071 | 0.06 | 2/2 |")
    assert lines[6].endswith("| `b00000000010`, `b00000000011` |")
    assert lines[-3].startswith("Best: delivered/val/accuracy_top1 0.605 at `optimizer.lr=0.1 batch_size_global=256`")
    assert lines[-1].startswith(
        "No significant difference from it, by the 95 % interval of the difference of two means (Welch's t): lr=0.1 "
    )


def test_figures_are_png_and_svg_and_reproducible(tmp_path: Path) -> None:
    sweep = make_grid(tmp_path)

    def digests() -> dict[str, str]:
        reported(sweep)
        files = [path for path in (sweep.folder / "report").rglob("*") if path.is_file()]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    once = digests()
    names = ("curves", "parameters", "parallel", "importance", "cost")
    assert set(once) == {"report.html", "table.md", *(f"{name}.{kind}" for name in names for kind in ("png", "svg"))}
    assert digests() == once
    figures = sweep.folder / "report" / "figures"
    assert (figures / "curves.png").read_bytes().startswith(b"\x89PNG")
    drawn = (figures / "curves.svg").read_text()
    assert "lr=0.1 batch_size_global=256 · 0.605" in drawn  # the legend has the overrides only
    assert "prefers-color-scheme: dark" in drawn
    assert 'xlink:href="../report.html#trial-b00000000010"' in drawn
    assert "var(--c1, #0072b2)" in drawn


def test_page_requests_nothing(tmp_path: Path) -> None:
    page = reported(make_grid(tmp_path))
    assert "default-src 'none'" in page
    outside = re.findall(r"(?:src|href|url\()=?[\"'(]?(?!#|data:|figures/|table\.md)[a-z]+:?//[^\s\"')]+", page)
    assert outside == []
    assert not re.search(r"<(?:link [^>]*stylesheet|img|iframe|object|script src)", page)


def test_values_and_reasons_are_escaped(tmp_path: Path) -> None:
    sweep = make_swept(tmp_path, [{"name": HOSTILE}, {"name": "plain"}], sync="off", description=HOSTILE)
    run_trial(sweep, "b00000000000", 0.5)
    start_trial(sweep, "b00000000001")
    ledgers.end_trial(sweep, "b00000000001", "failed", failure="exception", reason=HOSTILE, step=3)
    page = reported(sweep)
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    assert rows_of(page, "trial")[0]["name"] == HOSTILE  # complete and unchanged
    assert HOSTILE in rows_of(page, "trial")[1]["reason"]
    table = (sweep.folder / "report" / "table.md").read_text()
    assert "\\<script\\>" in table
    assert all(line.replace("\\|", "").count("|") == 5 for line in table.splitlines() if line.startswith("| "))
    for drawn in (sweep.folder / "report" / "figures").glob("*.svg"):
        assert "<script" not in drawn.read_text()


def test_secrets_are_hidden(tmp_path: Path) -> None:
    secret = "hf_" + "a1B2" * 8
    sweep = make_swept(tmp_path, [{"hub_token": secret}, {"hub_token": "none"}], sync="off")
    for trial in ledgers.ids(2):
        run_trial(sweep, trial, 0.5)
    reported(sweep)
    for path in (sweep.folder / "report").rglob("*.*"):
        assert secret.encode() not in path.read_bytes(), path
    assert "(hidden)" in (sweep.folder / "report" / "table.md").read_text()


def test_page_of_a_sweep_that_has_not_started(tmp_path: Path) -> None:
    page = reported(make_swept(tmp_path, [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.2}], sync="off"))
    assert "No trial has finished with a result yet." in section(page, "best")
    assert "No metric is logged yet." in section(page, "not-drawn")
    assert "The sweep is not over: 0/2 done, 2 pending." in page
    assert [row["state"] for row in rows_of(page, "trial")] == ["pending", "pending"]


def test_page_of_a_sweep_of_one_trial_without_parameters(tmp_path: Path) -> None:
    sweep = make_swept(tmp_path, [{}], sync="off")
    run_trial(sweep, "b00000000000", 0.25)
    page = reported(sweep)
    assert "<strong>0.25</strong>" in section(page, "best")
    assert "No parameter varies." in section(page, "not-drawn")
    assert "<svg" in section(page, "curves")


def test_trials_without_a_finite_result_are_shown_and_never_the_best(tmp_path: Path) -> None:
    points = [{"optimizer.lr": lr} for lr in (0.1, 0.2, 0.3, 0.4, 0.5)]
    sweep = make_swept(tmp_path, points, sync="off")
    run_trial(sweep, "b00000000000", 0.5)
    run_trial(sweep, "b00000000001", float("inf"))
    start_trial(sweep, "b00000000002")
    ledgers.log_metric(sweep, "b00000000002", {100: float("nan")})
    ledgers.end_trial(sweep, "b00000000002", "failed", failure="exception", reason="ValueError: no number", step=100)
    start_trial(sweep, "b00000000003")
    ledgers.log_metric(sweep, "b00000000003", {100: 0.9})
    ledgers.end_trial(sweep, "b00000000003", "pruned", value=0.9, step=100)
    start_trial(sweep, "b00000000004")
    ledgers.log_metric(sweep, "b00000000004", {100: 0.95})
    page = reported(sweep)
    rows = {row["trial"]: row for row in rows_of(page, "trial")}
    assert [rows[f"b0000000000{number}"]["state"] for number in range(5)] == [
        "finished", "finished", "failed", "pruned", "running",
    ]  # fmt: skip
    assert "lathe reproduce" in section(page, "best")
    assert "b00000000000" in section(page, "best")
    assert rows["b00000000004"]["step"] == "100/200"
    assert "ValueError: no number" in rows["b00000000002"]["reason"]
    assert "1 trial failed: exception." in page
    assert "Hollow triangles are trials that did not finish." in section(page, "parameters")
    assert "2 trials have no result and are not shown." in section(page, "parameters")


def test_parameter_of_some_points_is_drawn_as_not_set_and_left_out_of_the_importance(
    tmp_path: Path,
) -> None:
    points = [{"optimizer": "adam", "optimizer.lr": lr} for lr in (0.001, 0.01, 0.1, 1.0)]
    points += [{"optimizer": "sgd", "optimizer.lr": lr, "optimizer.momentum": 0.9} for lr in (0.001, 0.01, 0.1, 1.0)]
    sweep = make_swept(tmp_path, points, sync="off")
    for number, trial in enumerate(ledgers.ids(8)):
        ledgers.claim_trial(sweep, trial)
        ledgers.log_metric(sweep, trial, {100: number / 10})
        ledgers.end_trial(sweep, trial, "finished", value=number / 10, step=200)
    page = reported(sweep)
    assert ">not set<" in section(page, "parameters")
    assert ">log scale<" in section(page, "parameters")
    assert "Left out, because only some points set them: momentum." in section(page, "importance")
    result = compute_importance(collect_from_sweep(sweep))
    assert isinstance(result, Importance)
    assert set(result.fractions) == {"optimizer", "optimizer.lr"}
    assert result.fractions["optimizer"] > result.fractions["optimizer.lr"]  # the second half of the points is better
    assert sum(result.fractions.values()) == pytest.approx(1.0)


def test_importance_needs_enough_trials_and_uses_ped_anova_for_many(tmp_path: Path) -> None:
    few = make_swept(tmp_path, [{"optimizer.lr": lr} for lr in (0.1, 0.2)], name="few", sync="off")
    for trial in ledgers.ids(2):
        run_trial(few, trial, 0.5)
    assert compute_importance(collect_from_sweep(few)) == "2 finished trials are too few; at least 8 are needed."
    points = [{"optimizer.lr": number / 7, "max_steps": number % 3} for number in range(301)]
    many = make_swept(tmp_path, points, name="many", sync="off")
    ledger = many.ledger()
    with ledger.locked() as standing:
        for number, entry in enumerate(standing.entries.values()):
            ledger.claim(entry, worker="w", host="node7", devices=1)
            ledger.end(entry.id, 1, "finished", value=number / 1000, step=200)
    result = compute_importance(collect_from_sweep(many))
    assert isinstance(result, Importance)
    assert result.method.startswith("PED-ANOVA")
    assert next(iter(result.fractions)) == "optimizer.lr"


def test_best_of_many_points_are_highlighted_and_the_others_grey(tmp_path: Path) -> None:
    sweep = make_swept(tmp_path, [{"optimizer.lr": number / 10} for number in range(1, 13)], sync="off", mode="min")
    for number, trial in enumerate(ledgers.ids(12)):
        run_trial(sweep, trial, 0.5 + number / 100)
    curves = unescape(section(reported(sweep), "curves"))
    assert "The best 5 of 12 points are highlighted, the others are grey." in curves
    assert "7 other points" in curves
    assert re.findall(r">(lr=\S+) · (\S+)<", curves) == [
        ("lr=0.1", "0.5"), ("lr=0.2", "0.51"), ("lr=0.3", "0.52"), ("lr=0.4", "0.53"), ("lr=0.5", "0.54"),
    ]  # fmt: skip


def test_reused_result_shows_the_curve_of_the_trial_it_came_from(tmp_path: Path) -> None:
    sweep = make_swept(tmp_path, [{"optimizer.lr": 0.1}], sync="off")
    run_trial(sweep, "b00000000000", 0.5)
    ledger = sweep.ledger()
    with ledger.locked():
        reused = {"folder": "b00000000000", "value": 0.5}
        ledger.add([{"trial": "c0", "point": 1, "values": {"optimizer.lr": 0.2}, "seed": 0, "reused": reused}])
    page = reported(sweep)
    assert "1 result is reused from trials that ran earlier." in page
    rows = {row["trial"]: row for row in rows_of(page, "trial")}
    assert rows["c0"][METRIC] == rows["b00000000000"][METRIC] == "0.5"
    assert rows["c0"]["reason"] == "result reused from b00000000000"


def test_cost_and_throughput_name_the_runs_with_the_extremes(tmp_path: Path) -> None:
    sweep = make_swept(tmp_path, [{"optimizer.lr": lr} for lr in (0.1, 0.2, 0.3)], sync="off")
    for trial, speed in zip(ledgers.ids(3), (10.0, 30.0, 2000.0), strict=True):
        start_trial(sweep, trial)
        with Journal(ledgers.attempt_folder(sweep, trial) / "journal.jsonl") as journal:
            journal.state("running", step=0, attempt=1)
            for step in (10, 20, 30):
                journal.metrics(step, {"perf/samples_per_s": speed * step / 20, "cost/device_h": step / 10})
        ledgers.finish_trial(sweep, trial, 0.5)
    throughput, cost = rows_of(section(reported(sweep), "cost"), "metric")
    assert list(throughput.values())[:3] == ["perf/samples_per_s", "30", "10"]
    assert throughput["highest"] == "2,000"
    assert throughput["of"] == "b00000000002"
    assert (cost["metric"], cost["median"]) == ("cost/device_h", "3")


@pytest.mark.parametrize(("hours", "text"), [(0.5, "30 min"), (0.001, "3.6 s"), (1234.56, "1,234.6 h")])
def test_device_time_is_in_hours_from_one_hour_on(hours: float, text: str) -> None:
    assert format_device_time(hours) == text


def test_wasted_time_and_attempts_are_those_of_the_ledger(tmp_path: Path) -> None:
    sweep = make_swept(tmp_path, [{"optimizer.lr": 0.1}], sync="off")
    start_trial(sweep, "b00000000000")
    ledgers.end_trial(sweep, "b00000000000", "pending", failure="killed", reason="gone", wasted=True, step=10)
    run_trial(sweep, "b00000000000", 0.5)
    progress = read_progress(sweep, sweep.ledger())
    assert progress.wasted_h > 0
    page = reported(sweep)
    assert f"({progress.wasted_h / progress.used_h:.0%})" in page
    assert "<dt>attempts</dt><dd>2 <small>for 1 trial</small>" in page


def make_pair(runs_dir: Path) -> list[Trial]:
    """Two finished runs that differ by rate and size of the model, and by the note, which does not count."""
    shared: dict[str, Any] = {
        "checkpoint": {"best_metric": "val/loss_nats", "best_mode": "min"},
        "max_steps": 20,
        "seed": 0,
    }
    optimizer = {"_target_": "torch.optim.SGD"}
    pair = [
        make_run(runs_dir, "a1b2c3", **shared, optimizer={**optimizer, "lr": 0.1}),
        make_run(
            runs_dir, "d4e5f6", **shared, optimizer={**optimizer, "lr": 0.3, "momentum": 0.9}, description="other"
        ),
    ]
    for trial, loss in zip(pair, (0.5, 0.25), strict=True):
        with stores.start_attempt(trial) as journal:
            for step in (10, 20):
                journal.metrics(step, {"train/loss_nats": loss * 2, "val/loss_nats": loss * step / 20})
            journal.state("finished", step=20, attempt=1)
        stores.write_outcome(trial)
    return pair


def test_runs_are_compared_by_what_their_configurations_differ_by(tmp_path: Path, lathe: Lathe) -> None:
    make_pair(tmp_path / "runs")
    done = lathe("report", "a1b2c3", "d4e5", "-o", "out")
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"page     {Path('out') / 'report.html'}" in done.stdout
    differ = rows_of(section(page, "differences"), "key")
    assert differ == [
        {"key": "optimizer.lr", "d4e5f6": "0.3", "a1b2c3": "0.1"},
        {"key": "optimizer.momentum", "d4e5f6": "0.9", "a1b2c3": ""},
    ]
    losses = {row["run"]: row["delivered/val/loss_nats"] for row in rows_of(page, "run")}
    assert losses == {"d4e5f6": "0.125", "a1b2c3": "0.250"}
    assert "lathe reproduce d4e5f6" in section(page, "best")
    assert (tmp_path / "out" / "figures" / "curves.png").exists()
    assert not (tmp_path / "out" / "figures" / "importance.png").exists()


def test_runs_that_differ_only_in_the_seed_are_one_point(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path, f"a{seed}", seed=seed, checkpoint={"best_metric": "val/loss_nats", "best_mode": "min"})
        for seed in (0, 1)
    ]
    for trial, loss in zip(runs, (1.0, 2.0), strict=True):
        with stores.start_attempt(trial) as journal:
            journal.metrics(5, {"val/loss_nats": loss})
            journal.state("finished", step=5, attempt=1)
        stores.write_outcome(trial)
    findings = collect_from_runs(runs)
    assert [[run.id for run in point.runs] for point in findings.points] == [["a0", "a1"]]
    assert (findings.points[0].value, findings.short) == (1.5, {})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["porbe"], r"there is no sweep or run 'porbe' in .*; did you mean 'probe'\?"),
        (
            ["probe", "a1b2c3"],
            "'probe' is a sweep, and 'a1b2c3' is given as well; name one sweep, or only runs and trials",
        ),
        (["probe", "probe"], "'probe' is a sweep, and 'probe' is given as well"),
        (["a1b2c3", "nope"], "there is no run 'nope'"),
        (["b0000000000"], "run 'b0000000000' is not unique"),
    ],
)
def test_wrong_names_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    sweep = make_swept(tmp_path, [{"optimizer.lr": lr} for lr in (0.1, 0.2)], sync="off", name="probe")
    for trial in ledgers.ids(2):
        run_trial(sweep, trial, 0.5)
    make_run(tmp_path, "a1b2c3")
    with pytest.raises(InputError, match=message):
        select_runs(names, tmp_path)


def test_sweep_is_selected_by_its_name_a_prefix_or_its_folder(tmp_path: Path) -> None:
    sweep = make_swept(tmp_path, [{"optimizer.lr": 0.1}], name="probe", sync="off")
    for name in ("probe", "pro", str(sweep.folder)):
        selected = select_runs([name], tmp_path)
        assert isinstance(selected, Sweep)
        assert selected.folder == sweep.folder


def test_run_without_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run 'a1b2c3' has no metrics yet; leave it out"):
        collect_from_runs([make_run(tmp_path)])


def test_output_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    sweep = make_swept(tmp_path, [{"optimizer.lr": 0.1}], sync="off")
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match=r"-o .*taken cannot be written \(Not a directory\); choose another folder"):
        reported(sweep, tmp_path / "taken")


def test_long_curve_is_downsampled_and_keeps_its_last_value_and_extremes() -> None:
    series = Series()
    for step in range(10_000):
        series.add(step, 7.0 if step == 5_000 else step / 1000)
    curve = series.curve()
    assert len(curve) < MAX_POINTS
    assert series.width == 32
    assert curve[0][0] == 31
    assert curve[0][1] == pytest.approx(0.0155)
    assert series.last == (9_999, 9.999)
    assert curve[-1][0] == 9_999
    assert (series.best("min"), series.best("max")) == (0.0, 9.999)


def artifacts(runs_dir: Path) -> dict[str, str]:
    """Return the files of the report among the artifacts of the sweep in the store, with their texts."""
    ((run_id,),) = stores.sql(
        runs_dir / "mlflow.db", "select run_uuid from tags where key = 'lathe.kind' and value = 'sweep'"
    )
    folder = next((runs_dir / "artifacts").rglob(run_id)) / "artifacts" / "report"
    return {path.name: path.read_text() for path in folder.glob("*.*")}


@pytest.mark.slow
def test_report_is_an_artifact_of_the_sweep_and_a_newer_one_replaces_it(
    runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = make_swept(runs_dir, [{"optimizer.lr": lr} for lr in (0.1, 0.2)])
    run_trial(sweep, "b00000000000", 0.5)
    page = reported(sweep)
    assert "uploaded as an artifact of the run of the sweep" in capsys.readouterr().out
    assert artifacts(runs_dir)["report.html"] == page
    run_trial(sweep, "b00000000001", 0.75)
    newer = reported(sweep)
    assert newer != page
    assert artifacts(runs_dir)["report.html"] == newer
    uploaded = json.loads((sweep.folder / "sync.json").read_text())
    assert uploaded["report"] == hashlib.sha256(newer.encode()).hexdigest()
    assert uploaded["artifacts"] == []
    before = {path: path.stat().st_mtime_ns for path in (runs_dir / "artifacts").rglob("*") if path.is_file()}
    SweepSync(sweep).sync()
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing is uploaded twice


@pytest.mark.slow
def test_store_that_cannot_be_reached_is_a_warning_and_the_report_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as listener:  # bound and not listening: a connection is refused at once
        listener.bind(("127.0.0.1", 0))
        store = f"http://user:hush@127.0.0.1:{listener.getsockname()[1]}"
        sweep = make_swept(tmp_path, [{"optimizer.lr": 0.1}], store=store)
        run_trial(sweep, "b00000000000", 0.5)
        assert "<strong>0.5</strong>" in reported(sweep)
    captured = capsys.readouterr()
    assert "warning: tracking.store=" in captured.err
    assert "hush" not in captured.err + captured.out
    assert "uploaded" not in captured.out


def test_report_with_an_output_folder_is_not_uploaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = make_swept(tmp_path, [{"optimizer.lr": 0.1}])
    run_trial(sweep, "b00000000000", 0.5)
    assert "<strong>0.5</strong>" in reported(sweep, tmp_path / "own")
    assert "is uploaded, by `lathe report` without -o" in capsys.readouterr().out
    assert not (tmp_path / "mlflow.db").exists()
    assert not (sweep.folder / "report").exists()


def test_report_imports_neither_torch_nor_mlflow_nor_hydra(tmp_path: Path) -> None:
    sweep = make_grid(tmp_path)
    script = (
        "import sys; from experiments.cli.main import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'mlflow', 'hydra'} & set(sys.modules), sys.modules.keys(); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, "report", str(sweep.folder)], capture_output=True, text=True, timeout=PATIENCE_S
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
