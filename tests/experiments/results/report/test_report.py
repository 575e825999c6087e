"""The report of a sweep and of runs: what it tells, against the ledger and the journals that it is made of."""

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
from experiments.sweep.status.progress import look
from experiments.sweep.sweep import Sweep
from experiments.tracking.sweep_sync import sync_sweep
from experiments.trial.trial import Trial
from tests.conftest import Lathe
from tests.support import ledgers, stores
from tests.support.recorded_sweeps import METRIC, begin, make_swept, run
from tests.support.stores import make_run

HOSTILE = "<script>alert('x')</script>\"&`|$y$ 日本"


def reported(sweep: Sweep, output: Path | None = None) -> str:
    """Report a sweep as the command does; the page."""
    asked = argparse.Namespace(
        runs=[str(sweep.folder)], output=str(output) if output else None, runs_dir=str(sweep.runs_dir)
    )
    assert report(asked) == 0
    return ((output or sweep.folder / "report") / "report.html").read_text()


def make_grid(runs_dir: Path) -> Sweep:
    """A sweep of three learning rates by two batch sizes, of two seeds each; it is finished."""
    points = [{"optimizer.lr": lr, "batch_size_global": size} for lr in (0.001, 0.01, 0.1) for size in (16, 256)]
    sweep = make_swept(runs_dir, points, seeds=2, sync="off")
    for number, trial in enumerate(ledgers.ids(12)):
        run(sweep, trial, 0.5 + number / 100, steps=(50, 100, 200))
    return sweep


class _Tables(HTMLParser):
    """The tables of a page, each a list of rows of texts."""

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
    """The rows of the last table whose first column has this name."""
    parser = _Tables()
    parser.feed(page)
    head, *rows = next(table for table in reversed(parser.tables) if table[0][0] == first)
    return [dict(zip(head, row, strict=True)) for row in rows]


def section(page: str, name: str) -> str:
    return page.partition(f'<section id="{name}"')[2].partition("</section>")[0]


def test_every_number_of_the_page_is_that_of_the_ledger(tmp_path: Path) -> None:
    sweep = make_grid(tmp_path)
    page, progress = reported(sweep), look(sweep, sweep.ledger())
    told = {row["trial"]: row for row in rows_of(page, "trial")}
    assert set(told) == {row.id for row in progress.rows}
    for row in progress.rows:
        assert row.best is not None
        assert told[row.id][METRIC] == f"{row.best:.2f}"
        assert float(told[row.id]["lr"]) == row.values["optimizer.lr"]
        assert told[row.id]["batch_size_global"] == str(row.values["batch_size_global"])
        assert told[row.id]["seed"] == str(row.seed)
        assert (told[row.id]["attempts"], told[row.id]["step"]) == ("1", "200")
    assert progress.best is not None
    assert progress.best.value == pytest.approx(0.605)
    best = section(page, "best")
    assert "optimizer.lr=0.1 batch_size_global=256" in best
    assert "<strong>0.605</strong>, the mean of 2 seeds" in best
    assert f"lathe reproduce {sweep.folder}/b00000000011" in best
    assert all(f'href="#trial-{trial}"' in best and f'id="trial-{trial}"' in page for trial in progress.best.trials)
    assert "<dt>attempts</dt><dd>12 <small>for 12 trials</small>" in page


def test_the_means_and_deviations_over_seeds_are_told_and_also_as_markdown(tmp_path: Path) -> None:
    sweep = make_grid(tmp_path)
    page = reported(sweep)
    first = rows_of(section(page, "points"), "lr")[0]
    assert (first["lr"], first["batch_size_global"], first[METRIC], first["± std"]) == ("0.1", "256", "0.605", "0.0071")
    assert (first["seeds"], first["trials"]) == ("2/2", "b00000000010, b00000000011")
    lines = (sweep.folder / "report" / "table.md").read_text().splitlines()
    assert lines[4].startswith("| lr | batch_size_global | val/accuracy_top1 | ± std | seeds |")
    assert lines[6].startswith("| 0.1 | 256 | **0.605** | 0.0071 | 2/2 |")
    assert lines[6].endswith("| `b00000000010`, `b00000000011` |")
    assert lines[-1].startswith("Best: val/accuracy_top1 0.605 at `optimizer.lr=0.1 batch_size_global=256`")


def test_the_figures_are_there_as_png_and_svg_and_the_same_every_time(tmp_path: Path) -> None:
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
    assert "lr=0.1 batch_size_global=256 · 0.605" in drawn  # legends have the overrides and nothing else
    assert "prefers-color-scheme: dark" in drawn
    assert 'xlink:href="../report.html#trial-b00000000010"' in drawn
    assert "var(--c1, #0072b2)" in drawn


def test_a_page_asks_nobody_for_anything(tmp_path: Path) -> None:
    page = reported(make_grid(tmp_path))
    assert "default-src 'none'" in page
    outside = re.findall(r"(?:src|href|url\()=?[\"'(]?(?!#|data:|figures/|table\.md)[a-z]+:?//[^\s\"')]+", page)
    assert outside == []
    assert not re.search(r"<(?:link [^>]*stylesheet|img|iframe|object|script src)", page)


def test_values_and_reasons_cannot_write_into_the_page(tmp_path: Path) -> None:
    sweep = make_swept(tmp_path, [{"name": HOSTILE}, {"name": "plain"}], sync="off", note=HOSTILE)
    run(sweep, "b00000000000", 0.5)
    begin(sweep, "b00000000001")
    ledgers.end(sweep, "b00000000001", "failed", failure="exception", reason=HOSTILE, step=3)
    page = reported(sweep)
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    assert rows_of(page, "trial")[0]["name"] == HOSTILE  # whole, and as it was
    assert HOSTILE in rows_of(page, "trial")[1]["why"]
    table = (sweep.folder / "report" / "table.md").read_text()
    assert "\\<script\\>" in table
    assert all(line.replace("\\|", "").count("|") == 5 for line in table.splitlines() if line.startswith("| "))
    for drawn in (sweep.folder / "report" / "figures").glob("*.svg"):
        assert "<script" not in drawn.read_text()


def test_a_secret_is_not_shown(tmp_path: Path) -> None:
    secret = "hf_" + "a1B2" * 8
    sweep = make_swept(tmp_path, [{"hub_token": secret}, {"hub_token": "none"}], sync="off")
    for trial in ledgers.ids(2):
        run(sweep, trial, 0.5)
    reported(sweep)
    for path in (sweep.folder / "report").rglob("*.*"):
        assert secret.encode() not in path.read_bytes(), path
    assert "(hidden)" in (sweep.folder / "report" / "table.md").read_text()


def test_a_page_is_written_of_a_sweep_that_has_not_begun(tmp_path: Path) -> None:
    page = reported(make_swept(tmp_path, [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.2}], sync="off"))
    assert "None has come to its end with a result yet." in section(page, "best")
    assert "Nothing was measured yet." in section(page, "not-drawn")
    assert "The sweep goes on: 0/2 done, 2 waiting." in page
    assert [row["state"] for row in rows_of(page, "trial")] == ["waiting", "waiting"]


def test_a_sweep_of_one_trial_without_parameters_has_a_page(tmp_path: Path) -> None:
    sweep = make_swept(tmp_path, [{}], sync="off")
    run(sweep, "b00000000000", 0.25)
    page = reported(sweep)
    assert "<strong>0.25</strong>" in section(page, "best")
    assert "No parameter varies." in section(page, "not-drawn")
    assert "<svg" in section(page, "curves")


def test_trials_without_a_result_or_with_one_that_is_no_number_are_told_and_never_the_best(tmp_path: Path) -> None:
    points = [{"optimizer.lr": lr} for lr in (0.1, 0.2, 0.3, 0.4, 0.5)]
    sweep = make_swept(tmp_path, points, sync="off")
    run(sweep, "b00000000000", 0.5)
    run(sweep, "b00000000001", float("inf"))
    begin(sweep, "b00000000002")
    ledgers.log(sweep, "b00000000002", {100: float("nan")})
    ledgers.end(sweep, "b00000000002", "failed", failure="exception", reason="ValueError: no number", step=100)
    begin(sweep, "b00000000003")
    ledgers.log(sweep, "b00000000003", {100: 0.9})
    ledgers.end(sweep, "b00000000003", "pruned", value=0.9, step=100)
    begin(sweep, "b00000000004")
    ledgers.log(sweep, "b00000000004", {100: 0.95})
    page = reported(sweep)
    told = {row["trial"]: row for row in rows_of(page, "trial")}
    assert [told[f"b0000000000{number}"]["state"] for number in range(5)] == [
        "finished", "finished", "failed", "pruned", "running",
    ]  # fmt: skip
    assert "lathe reproduce" in section(page, "best")
    assert "b00000000000" in section(page, "best")
    assert told["b00000000004"]["step"] == "100/200"
    assert "ValueError: no number" in told["b00000000002"]["why"]
    assert "1 trial failed: exception." in page
    assert "Hollow triangles did not come to their end." in section(page, "parameters")
    assert "2 trials have no result and are not shown." in section(page, "parameters")


def test_a_parameter_that_only_some_points_have_is_drawn_as_not_set_and_left_out_of_the_importance(
    tmp_path: Path,
) -> None:
    points = [{"optimizer": "adam", "optimizer.lr": lr} for lr in (0.001, 0.01, 0.1, 1.0)]
    points += [{"optimizer": "sgd", "optimizer.lr": lr, "optimizer.momentum": 0.9} for lr in (0.001, 0.01, 0.1, 1.0)]
    sweep = make_swept(tmp_path, points, sync="off")
    for number, trial in enumerate(ledgers.ids(8)):
        ledgers.begin(sweep, trial)
        ledgers.log(sweep, trial, {100: number / 10})
        ledgers.end(sweep, trial, "finished", value=number / 10, step=200)
    page = reported(sweep)
    assert ">not set<" in section(page, "parameters")
    assert ">log scale<" in section(page, "parameters")
    assert "Left out, as only some points have them: momentum." in section(page, "importance")
    found = compute_importance(collect_from_sweep(sweep))
    assert isinstance(found, Importance)
    assert set(found.shares) == {"optimizer", "optimizer.lr"}
    assert found.shares["optimizer"] > found.shares["optimizer.lr"]  # the second half of the points is the better
    assert sum(found.shares.values()) == pytest.approx(1.0)


def test_few_trials_have_no_importance_and_many_another_measure(tmp_path: Path) -> None:
    few = make_swept(tmp_path, [{"optimizer.lr": lr} for lr in (0.1, 0.2)], name="few", sync="off")
    for trial in ledgers.ids(2):
        run(few, trial, 0.5)
    assert compute_importance(collect_from_sweep(few)) == "2 finished trials are too few to tell; it takes 8."
    points = [{"optimizer.lr": number / 7, "max_steps": number % 3} for number in range(301)]
    many = make_swept(tmp_path, points, name="many", sync="off")
    ledger = many.ledger()
    with ledger.locked() as standing:
        for number, entry in enumerate(standing.entries.values()):
            ledger.claim(entry, worker="w", host="node7", devices=1)
            ledger.end(entry.id, 1, "finished", value=number / 1000, step=200)
    found = compute_importance(collect_from_sweep(many))
    assert isinstance(found, Importance)
    assert found.method.startswith("PED-ANOVA")
    assert next(iter(found.shares)) == "optimizer.lr"


def test_of_many_points_the_best_stand_out_and_the_rest_is_grey(tmp_path: Path) -> None:
    sweep = make_swept(tmp_path, [{"optimizer.lr": number / 10} for number in range(1, 13)], sync="off", mode="min")
    for number, trial in enumerate(ledgers.ids(12)):
        run(sweep, trial, 0.5 + number / 100)
    curves = unescape(section(reported(sweep), "curves"))
    assert "The best 5 of 12 points stand out, the rest is grey." in curves
    assert "7 other points" in curves
    assert re.findall(r">(lr=\S+) · (\S+)<", curves) == [
        ("lr=0.1", "0.5"), ("lr=0.2", "0.51"), ("lr=0.3", "0.52"), ("lr=0.4", "0.53"), ("lr=0.5", "0.54"),
    ]  # fmt: skip


def test_a_result_that_was_taken_from_another_trial_shows_that_ones_curve(tmp_path: Path) -> None:
    sweep = make_swept(tmp_path, [{"optimizer.lr": 0.1}], sync="off")
    run(sweep, "b00000000000", 0.5)
    ledger = sweep.ledger()
    with ledger.locked():
        reused = {"folder": "b00000000000", "value": 0.5}
        ledger.add([{"trial": "c0", "point": 1, "values": {"optimizer.lr": 0.2}, "seed": 0, "reused": reused}])
    page = reported(sweep)
    assert "1 of the results were taken from trials that had run already." in page
    told = {row["trial"]: row for row in rows_of(page, "trial")}
    assert told["c0"]["last"] == told["b00000000000"]["last"] == "0.5"
    assert told["c0"]["why"] == "the result of b00000000000"


def test_cost_and_throughput_name_the_runs_at_both_ends(tmp_path: Path) -> None:
    sweep = make_swept(tmp_path, [{"optimizer.lr": lr} for lr in (0.1, 0.2, 0.3)], sync="off")
    for trial, speed in zip(ledgers.ids(3), (10.0, 30.0, 2000.0), strict=True):
        begin(sweep, trial)
        with Journal(ledgers.attempt_folder(sweep, trial) / "journal.jsonl") as journal:
            journal.state("running", step=0, attempt=1)
            for step in (10, 20, 30):
                journal.metrics(step, {"perf/samples_per_s": speed * step / 20, "cost/device_h": step / 10})
        ledgers.finish(sweep, trial, 0.5)
    throughput, cost = rows_of(section(reported(sweep), "cost"), "metric")
    assert list(throughput.values())[:3] == ["perf/samples_per_s", "30", "10"]
    assert throughput["highest"] == "2,000"
    assert throughput["of"] == "b00000000002"
    assert (cost["metric"], cost["median"]) == ("cost/device_h", "3")


@pytest.mark.parametrize(("hours", "told"), [(0.5, "30 min"), (0.001, "3.6 s"), (1234.56, "1,234.6 h")])
def test_device_time_is_told_in_hours_from_one_on(hours: float, told: str) -> None:
    assert format_device_time(hours) == told


def test_waste_and_attempts_are_those_of_the_ledger(tmp_path: Path) -> None:
    sweep = make_swept(tmp_path, [{"optimizer.lr": 0.1}], sync="off")
    begin(sweep, "b00000000000")
    ledgers.end(sweep, "b00000000000", "waiting", failure="killed", reason="gone", wasted=True, step=10)
    run(sweep, "b00000000000", 0.5)
    progress = look(sweep, sweep.ledger())
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
        make_run(runs_dir, "d4e5f6", **shared, optimizer={**optimizer, "lr": 0.3, "momentum": 0.9}, note="other"),
    ]
    for trial, loss in zip(pair, (0.5, 0.25), strict=True):
        with stores.begin(trial) as journal:
            for step in (10, 20):
                journal.metrics(step, {"train/loss_nats": loss * 2, "val/loss_nats": loss * step / 20})
            journal.state("finished", step=20, attempt=1)
        stores.end(trial)
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
    told = {row["run"]: row["val/loss_nats"] for row in rows_of(page, "run")}
    assert told == {"d4e5f6": "0.125", "a1b2c3": "0.250"}
    assert "lathe reproduce d4e5f6" in section(page, "best")
    assert (tmp_path / "out" / "figures" / "curves.png").exists()
    assert not (tmp_path / "out" / "figures" / "importance.png").exists()


def test_runs_that_are_the_same_but_for_the_seed_are_one_point(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path, f"a{seed}", seed=seed, checkpoint={"best_metric": "val/loss_nats", "best_mode": "min"})
        for seed in (0, 1)
    ]
    for trial, loss in zip(runs, (1.0, 2.0), strict=True):
        with stores.begin(trial) as journal:
            journal.metrics(5, {"val/loss_nats": loss})
            journal.state("finished", step=5, attempt=1)
        stores.end(trial)
    found = collect_from_runs(runs)
    assert [[run.id for run in point.runs] for point in found.points] == [["a0", "a1"]]
    assert (found.points[0].value, found.short) == (1.5, {})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["porbe"], r"there is no sweep or run 'porbe' in .*; did you mean 'probe'\?"),
        (
            ["probe", "a1b2c3"],
            "'probe' is a sweep, and 'a1b2c3' stands beside it; name one sweep, or runs and trials alone",
        ),
        (["probe", "probe"], "'probe' is a sweep, and 'probe' stands beside it"),
        (["a1b2c3", "nope"], "there is no run 'nope'"),
        (["b0000000000"], "run 'b0000000000' is not unique"),
    ],
)
def test_what_cannot_be_reported_is_told(tmp_path: Path, words: list[str], told: str) -> None:
    sweep = make_swept(tmp_path, [{"optimizer.lr": lr} for lr in (0.1, 0.2)], sync="off", name="probe")
    for trial in ledgers.ids(2):
        run(sweep, trial, 0.5)
    make_run(tmp_path, "a1b2c3")
    with pytest.raises(InputError, match=told):
        select_runs(words, tmp_path)


def test_a_sweep_is_found_by_its_name_its_beginning_and_its_folder(tmp_path: Path) -> None:
    sweep = make_swept(tmp_path, [{"optimizer.lr": 0.1}], name="probe", sync="off")
    for name in ("probe", "pro", str(sweep.folder)):
        found = select_runs([name], tmp_path)
        assert isinstance(found, Sweep)
        assert found.folder == sweep.folder


def test_a_run_that_has_measured_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run 'a1b2c3' has measured nothing yet; leave it out"):
        collect_from_runs([make_run(tmp_path)])


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    sweep = make_swept(tmp_path, [{"optimizer.lr": 0.1}], sync="off")
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match=r"-o .*taken cannot be written \(Not a directory\); choose another folder"):
        reported(sweep, tmp_path / "taken")


def test_a_long_curve_is_thinned_and_keeps_its_steps_its_ends_and_its_extremes() -> None:
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
    """The report's files in the store's folder of the sweep's run, each with its text."""
    ((run_id,),) = stores.sql(
        runs_dir / "mlflow.db", "select run_uuid from tags where key = 'lathe.kind' and value = 'sweep'"
    )
    folder = next((runs_dir / "artifacts").rglob(run_id)) / "artifacts" / "report"
    return {path.name: path.read_text() for path in folder.glob("*.*")}


@pytest.mark.slow
def test_the_report_is_an_artifact_of_the_sweeps_run_and_a_newer_one_takes_its_place(
    runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = make_swept(runs_dir, [{"optimizer.lr": lr} for lr in (0.1, 0.2)])
    run(sweep, "b00000000000", 0.5)
    page = reported(sweep)
    assert "an artifact of the sweep's run" in capsys.readouterr().out
    assert artifacts(runs_dir)["report.html"] == page
    run(sweep, "b00000000001", 0.75)
    newer = reported(sweep)
    assert newer != page
    assert artifacts(runs_dir)["report.html"] == newer
    uploaded = json.loads((sweep.folder / "sync.json").read_text())
    assert uploaded["report"] == hashlib.sha256(newer.encode()).hexdigest()
    assert uploaded["artifacts"] == []
    before = {path: path.stat().st_mtime_ns for path in (runs_dir / "artifacts").rglob("*") if path.is_file()}
    sync_sweep(sweep)
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing is sent twice


@pytest.mark.slow
def test_a_store_that_cannot_be_reached_is_told_and_the_report_is_written_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as nobody:  # bound and not listening: a connection is refused at once
        nobody.bind(("127.0.0.1", 0))
        store = f"http://user:hush@127.0.0.1:{nobody.getsockname()[1]}"
        sweep = make_swept(tmp_path, [{"optimizer.lr": 0.1}], store=store)
        run(sweep, "b00000000000", 0.5)
        assert "<strong>0.5</strong>" in reported(sweep)
    said = capsys.readouterr()
    assert "warning: tracking.store=" in said.err
    assert "hush" not in said.err + said.out
    assert "an artifact" not in said.out


def test_a_report_with_a_folder_of_its_own_is_not_brought_to_the_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = make_swept(tmp_path, [{"optimizer.lr": 0.1}])
    run(sweep, "b00000000000", 0.5)
    assert "<strong>0.5</strong>" in reported(sweep, tmp_path / "own")
    assert "is brought there, by a report without -o" in capsys.readouterr().out
    assert not (tmp_path / "mlflow.db").exists()
    assert not (sweep.folder / "report").exists()


def test_a_report_needs_neither_torch_nor_mlflow(tmp_path: Path) -> None:
    sweep = make_grid(tmp_path)
    script = (
        "import sys; from experiments.cli.main import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'mlflow', 'hydra'} & set(sys.modules), sys.modules.keys(); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, "report", str(sweep.folder)], capture_output=True, text=True, timeout=120
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
