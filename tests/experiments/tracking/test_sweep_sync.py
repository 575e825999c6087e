"""Sweeps in MLflow: one parent run, one child run per trial, and no point lost or doubled after a kill."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.run import journal
from experiments.sweep.ledger import Ledger, LedgerState
from experiments.sweep.space_parser import parse
from experiments.sweep.spec import read
from experiments.sweep.status.progress import TrialRow
from experiments.sweep.sweep import Sweep
from experiments.tracking import mlflow_client, sweep_tags
from experiments.tracking.run_sync import sync_run
from experiments.tracking.sweep_metrics import BestSoFar
from experiments.tracking.sweep_sync import SweepSync, sync_all
from tests.support import ledgers
from tests.support import workers as sweeps
from tests.support.forked_syncs import sync_and_kill, sync_at_once
from tests.support.preloaded import Preloaded
from tests.support.recorded_sweeps import (
    METRIC,
    make_space,
    make_swept,
    read_children,
    read_journal_points,
    read_parent_status,
    read_run_params,
    read_run_tags,
    read_stored_points,
    run_trial,
    start_trial,
)
from tests.support.stores import free_port, log_steps, make_run, sql, start_attempt, write_outcome
from tests.support.waiting import PATIENCE_S, wait_until

LRS = [{"optimizer.lr": lr} for lr in (0.001, 0.01, 0.1)]


def curve(runs_dir: Path, name: str) -> list[Any]:
    return sql(runs_dir / "mlflow.db", f"select step, value from metrics where key = 'sweep/{name}' order by step")


def num_runs(runs_dir: Path) -> int:
    return int(sql(runs_dir / "mlflow.db", "select count(*) from runs")[0][0])


def test_sweep_is_a_parent_run_with_a_child_run_per_trial(runs_dir: Path) -> None:
    points = [{"optimizer.lr": lr, "batch_size_global": 64} for lr in (0.003, 0.01)]
    sweep = make_swept(
        runs_dir, points, seeds=2, description="does it learn?", budget={"max_points": 9, "wall_h": None, "device_h": 2}
    )
    for trial, value in zip(ledgers.ids(4), (0.5, 0.7, 0.9, 0.8), strict=True):
        run_trial(sweep, trial, value)
    summary = SweepSync(sweep).sync()
    assert (summary.runs, summary.failures) == (4, ())
    assert summary.points == len(read_journal_points(sweep)) == 16
    assert read_stored_points(runs_dir) == read_journal_points(sweep)
    names = [f"lr={lr}, batch_size_global=64, seed={seed}" for lr in (0.003, 0.01) for seed in (0, 1)]
    assert read_children(runs_dir) == dict.fromkeys(names, "FINISHED")
    ((parent, status),) = sql(runs_dir / "mlflow.db", "select run_uuid, status from runs where name = 'probe'")
    assert status == "FINISHED"
    child = read_run_tags(runs_dir, names[3])
    expected_tags = {
        "mlflow.parentRunId": parent,
        "mlflow.runName": names[3],
        "lathe.kind": "trial",
        "lathe.sweep": "probe",
    }
    expected_tags |= {"lathe.point": "1", "lathe.state": "finished", "lathe.attempt": "1", "lathe.worker": "w"}
    expected_tags |= {"lathe.sweep_key": sweep.key, "lathe.host": "node7", "git.dirty": "true"}
    assert expected_tags.items() <= child.items()
    assert (
        read_run_params(runs_dir, names[3]).items()
        >= {"optimizer.lr": "0.01", "batch_size_global": "64", "seed": "1"}.items()
    )
    own = read_run_tags(runs_dir, "probe")
    expected_tags = {"lathe.kind": "sweep", "lathe.sweep": "probe", "lathe.sweep_key": sweep.key, "lathe.state": "done"}
    expected_tags |= {
        "lathe.finished": "4",
        "lathe.failed": "0",
        "lathe.pending": "0",
        "mlflow.source.git.commit": "0123abcd" * 5,
    }
    assert expected_tags.items() <= own.items()
    assert read_run_params(runs_dir, "probe") == {
        "strategy": "grid", "strategy.seed": "0", "strategy.startup_points": "10",
        "metric": METRIC, "mode": "max", "num_seeds": "2", "max_attempts": "4", "base": "", "budget.max_points": "9",
        "budget.device_h": "2", "space.optimizer.lr": "0.003,0.01", "space.batch_size_global": "64",
    }  # fmt: skip
    assert curve(runs_dir, "finished") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert curve(runs_dir, "best_value") == [(2, pytest.approx(0.6)), (3, pytest.approx(0.6)), (4, pytest.approx(0.85))]
    assert curve(runs_dir, "failed") == [(step, 0.0) for step in range(1, 5)]
    assert [value for _, value in curve(runs_dir, "device_h_used")] == sorted(
        v for _, v in curve(runs_dir, "device_h_used")
    )
    root = runs_dir / "artifacts" / parent / "artifacts"
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert files == ["code/lathe.patch", "provenance.yaml", "sweep.yaml"]
    for run_id in read_children(runs_dir, "run_uuid").values():
        folder = runs_dir / "artifacts" / run_id / "artifacts"
        assert sorted(path.name for path in folder.iterdir()) == ["provenance.yaml", "trial.yaml"]


def test_note_has_goal_progress_and_commands(runs_dir: Path) -> None:
    sweep = make_swept(runs_dir, LRS, description="does it learn?", base=["model=mlp", "data=blobs"])
    first, second, third = ledgers.ids(3)
    run_trial(sweep, first, 0.75)
    start_trial(sweep, second)
    ledgers.end_trial(sweep, second, "failed", failure="exception", reason="TrainingError: loss=nan |\n`x`")
    SweepSync(sweep).sync()
    note = read_run_tags(runs_dir, "probe")["mlflow.note.content"]
    assert note.startswith("**probe**: does it learn? ([all trials side by side](#/experiments/")
    assert "| `optimizer.lr` | `0.001,0.01,0.1` |" in note
    assert "| `base` | `model=mlp data=blobs` |" in note
    ids = read_children(runs_dir, "run_uuid")
    page = f"#/experiments/{sql(runs_dir / 'mlflow.db', 'select experiment_id from runs')[0][0]}/runs"
    assert f"**Best:** `delivered/{METRIC}` 0.75, of [lr=0.001]({page}/{ids['lr=0.001']})" in note
    assert f"| exception | 1 | [lr=0.01]({page}/{ids['lr=0.01']}): `TrainingError: loss=nan \\| 'x'` |" in note
    assert "1/3 done, 1 pending, 1 failed" in note
    assert "lathe sweep --config-dir 'my conf' ./sweep.yaml" in note
    assert f"lathe resume {sweep.folder}\nlathe status {sweep.folder}" in note
    run_trial(sweep, third, 0.875)
    SweepSync(sweep).sync()
    assert "0.875, of [lr=0.1](" in read_run_tags(runs_dir, "probe")["mlflow.note.content"]


def test_uploaded_spec_is_the_same(runs_dir: Path) -> None:
    spec = read("optimizers").values
    path = runs_dir / "sweep.yaml"
    path.write_text(yaml.safe_dump(spec))
    assert read(str(path)).values == spec


ENDS: list[tuple[str, dict[str, Any], str, str]] = [
    ("finished", {"value": 0.5}, "FINISHED", "finished"),
    ("pruned", {"value": 0.1, "reason": "worse than others"}, "FINISHED", "pruned"),
    ("failed", {"failure": "exception", "reason": "TrainingError"}, "FAILED", "failed"),
    ("cancelled", {"failure": "cancelled", "reason": "by hand"}, "KILLED", "cancelled"),
    ("pending", {"failure": "preempted", "reason": "SIGTERM"}, "SCHEDULED", "pending"),
]


@pytest.mark.parametrize(("state", "ending", "status", "tag"), ENDS)
def test_state_of_a_trial_comes_from_the_ledger(
    runs_dir: Path, state: Any, ending: dict[str, Any], status: str, tag: str
) -> None:
    sweep = make_swept(runs_dir, LRS)
    trial = ledgers.ids(1)[0]
    syncs = SweepSync(sweep)
    assert syncs.sync().runs == 0  # no trial has started
    assert (num_runs(runs_dir), read_parent_status(runs_dir)) == (1, "RUNNING")
    start_trial(sweep, trial)
    syncs.sync()  # before its first event
    assert read_children(runs_dir) == {"lr=0.001": "RUNNING"}
    ledgers.log_metric(sweep, trial, {100: 0.5})
    write_outcome(sweep.trial(ledgers.read_entry(sweep, trial)), "killed")  # what a file says does not count
    syncs.sync()
    assert read_children(runs_dir) == {"lr=0.001": "RUNNING"}
    ledgers.end_trial(sweep, trial, state, **ending)
    syncs.sync()
    assert read_children(runs_dir) == {"lr=0.001": status}
    run_tags = read_run_tags(runs_dir, "lr=0.001")
    assert run_tags["lathe.state"] == tag
    assert (run_tags.get("lathe.failure"), run_tags.get("lathe.reason")) == (
        ending.get("failure"),
        ending.get("reason"),
    )
    ((started, ended),) = sql(runs_dir / "mlflow.db", "select start_time, end_time from runs where name = 'lr=0.001'")
    assert (ended is None) == (state == "pending")
    assert ended is None or ended == round(ledgers.read_entry(sweep, trial).since * 1000) >= started
    assert read_stored_points(runs_dir) == read_journal_points(sweep)


def test_queue_time_of_a_trial_is_logged_once_when_it_ends(runs_dir: Path) -> None:
    sweep = make_swept(runs_dir, LRS[:1])
    trial = ledgers.ids(1)[0]
    for state in ("pending", "finished"):
        start_trial(sweep, trial)
        SweepSync(sweep).sync()
        assert not curve_of(runs_dir, "system/cost_queue_wait_s")
        ledgers.end_trial(sweep, trial, state, value=0.5)
    for _ in range(2):
        SweepSync(sweep).sync()
    waited = ledgers.read_entry(sweep, trial).waited_s
    assert waited > 0
    assert curve_of(runs_dir, "system/cost_queue_wait_s") == [pytest.approx(waited)]


def curve_of(runs_dir: Path, metric: str) -> list[float]:
    return [value for (value,) in sql(runs_dir / "mlflow.db", f"select value from metrics where key = '{metric}'")]


def test_all_attempts_of_a_trial_are_one_run(runs_dir: Path) -> None:
    sweep = make_swept(runs_dir, LRS[:1])
    trial = ledgers.ids(1)[0]
    start_trial(sweep, trial, "first")
    ledgers.log_metric(sweep, trial, {50: 0.1, 100: 0.2})
    orphan = ledgers.attempt_folder(sweep, trial) / "journal.jsonl"
    ledgers.end_trial(sweep, trial, "pending", failure="node lost", reason="gone")
    SweepSync(sweep).sync()
    assert read_run_tags(runs_dir, "lr=0.001")["lathe.failure"] == "node lost"
    start_trial(sweep, trial, "second")
    with orphan.open("a") as file:  # the first worker was still alive
        file.write('{"event":"metrics","time":1.0,"step":150,"metrics":{"val/accuracy_top1":9.0}}\n{"event":"metr')
    ledgers.log_metric(sweep, trial, {100: 0.25, 150: 0.3})
    SweepSync(sweep).sync()
    run_tags = read_run_tags(runs_dir, "lr=0.001")
    expected_tags = {"lathe.failure": "", "lathe.reason": "", "lathe.attempt": "2", "lathe.worker": "second"}
    assert expected_tags.items() <= run_tags.items()
    assert read_children(runs_dir) == {"lr=0.001": "RUNNING"}
    ledgers.end_trial(sweep, trial, "failed", failure="exception", reason="x")
    (sweep.folder / trial / "sync.json").unlink()
    (sweep.folder / "sync.json").unlink()
    SweepSync(sweep).sync()
    ledger = sweep.ledger()
    with ledger.locked():
        ledger.retry([trial])
    assert SweepSync(sweep).sync().failures == ()
    assert (read_children(runs_dir), read_parent_status(runs_dir)) == ({"lr=0.001": "SCHEDULED"}, "RUNNING")
    run_trial(sweep, trial, 0.5)
    (sweep.folder / trial / "sync.json").unlink()
    SweepSync(sweep).sync()
    assert read_run_tags(runs_dir, "lr=0.001")["lathe.failure"] == ""
    assert read_stored_points(runs_dir) == read_journal_points(sweep)
    assert [row[2:] for row in read_stored_points(runs_dir) if row[1] == METRIC] == [
        (50, 0.1),
        (100, 0.2),
        (150, 0.3),
        (200, 0.5),
    ]
    assert num_runs(runs_dir) == 2
    assert curve(runs_dir, "failed") == [(1, 1.0), (2, 0.0)]
    assert curve(runs_dir, "finished") == [(1, 0.0), (2, 1.0)]


SWEEPS: list[tuple[str, str | None, str]] = [
    ("ffw", None, "RUNNING"),
    ("ffr", "sweep.budget.wall_h=1 is spent", "RUNNING"),
    ("ffw", "sweep.budget.wall_h=1 is spent", "FINISHED"),
    ("fff", None, "FINISHED"),
    ("fpx", None, "FINISHED"),
    ("xxx", None, "FAILED"),
    ("xxp", None, "FINISHED"),
    ("fcc", "cancelled by ada", "KILLED"),
    ("fcf", None, "FINISHED"),  # a single one was taken away by hand
    ("xcc", None, "KILLED"),
    ("www", "cancelled by ada", "KILLED"),
    ("www", None, "RUNNING"),
]
STATES = {"f": "finished", "p": "pruned", "x": "failed", "c": "cancelled"}


@pytest.mark.parametrize(("states", "closed", "status"), SWEEPS)
def test_status_of_a_sweep_follows_from_its_trials(
    runs_dir: Path, states: str, closed: str | None, status: str
) -> None:
    sweep = make_swept(runs_dir, LRS)
    for trial, state in zip(ledgers.ids(3), states, strict=True):
        if state in "rfpxc":
            start_trial(sweep, trial)
        if state in STATES:
            ledgers.end_trial(sweep, trial, STATES[state], value=0.5, failure="exception" if state == "x" else None)  # type: ignore[arg-type]
    ledger = sweep.ledger()
    with ledger.locked():
        if closed:
            ledger.close(closed)
    SweepSync(sweep).sync()
    assert read_parent_status(runs_dir) == status


@pytest.mark.parametrize(
    ("budget", "events", "over"),
    [
        ({"max_points": 2}, "", False),  # its workers have not come yet
        ({"max_points": 2}, "f", False),  # they are about to ask
        ({"max_points": 2}, "ff", True),
        ({"wall_h": 1}, "ff", False),
        ({"wall_h": 1e-9}, "ff", True),
        ({"max_points": 2}, "fw", False),
    ],
)
def test_sweep_is_not_over_while_its_strategy_may_add_trials(
    runs_dir: Path, budget: dict[str, Any], events: str, over: bool
) -> None:
    limits = {"max_points": None, "wall_h": None, "device_h": None, **budget}
    strategy = {"name": "tpe", "seed": 0, "startup_points": 10}
    sweep = make_swept(runs_dir, LRS[: len(events)], budget=limits, strategy=strategy, space=make_space(LRS))
    for trial, state in zip(ledgers.ids(3), events, strict=False):
        if state == "f":
            run_trial(sweep, trial, 0.5)
    assert SweepSync(sweep).is_over() is over
    SweepSync(sweep).sync()
    assert read_parent_status(runs_dir) == ("FINISHED" if over else "RUNNING")


def test_reused_results_have_no_run_but_are_in_the_note(runs_dir: Path) -> None:
    sweep = make_swept(runs_dir, LRS[:1])
    run_trial(sweep, ledgers.ids(1)[0], 0.5)
    ledger = sweep.ledger()
    with ledger.locked():
        new_trial = {"trial": "c0", "point": 1, "values": {"optimizer.lr": 0.1}, "seed": 0}
        ledger.add([new_trial | {"reused": {"folder": "/runs/other/abc", "value": 0.9}}])
    SweepSync(sweep).sync()
    assert list(read_children(runs_dir)) == ["lr=0.001"]
    assert "`lr=0.1` of `/runs/other/abc`" in read_run_tags(runs_dir, "probe")["mlflow.note.content"]
    assert curve(runs_dir, "best_value") == [(1, 0.5), (2, 0.9)]


class Watched:
    """A client that records its calls."""

    def __init__(self, client: Any) -> None:
        self.client, self.calls = client, list[str]()

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self.client, name)


def test_synced_trials_are_not_read_again(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_swept(runs_dir, LRS)
    for trial in ledgers.ids(2):
        run_trial(sweep, trial, 0.5)
    start_trial(sweep, ledgers.ids(3)[2])
    syncs = SweepSync(sweep)
    assert syncs.sync().points == 8
    into = mlflow_client.open_store(f"sqlite:///{runs_dir}/mlflow.db", runs_dir)
    watched = Watched(into._client)
    monkeypatch.setattr(into, "_client", watched)
    assert syncs.sync() == (3, 0, (), ())
    assert watched.calls == []  # not even of the one that runs
    ledgers.end_trial(sweep, ledgers.ids(3)[2], "finished", value=0.5)
    syncs.sync()
    assert Counter(watched.calls)["create_run"] == 0
    watched.calls.clear()
    assert SweepSync(sweep).sync() == (3, 0, (), ())
    assert watched.calls == ["get_run"]


def test_store_that_lost_the_sweep_gets_it_again(runs_dir: Path) -> None:
    from mlflow import MlflowClient

    sweep = make_swept(runs_dir, LRS)
    run_trial(sweep, ledgers.ids(1)[0], 0.5)
    SweepSync(sweep).sync()
    client = MlflowClient(f"sqlite:///{runs_dir}/mlflow.db")
    for (run_id,) in sql(runs_dir / "mlflow.db", "select run_uuid from runs"):
        client.delete_run(run_id)
    SweepSync(sweep).sync()
    assert sql(runs_dir / "mlflow.db", "select lifecycle_stage from runs") == [("active",)] * 2
    with closing(sqlite3.connect(runs_dir / "mlflow.db")) as connection:
        for table in ("params", "tags", "latest_metrics", "metrics", "runs"):
            connection.execute(f"delete from {table}")
        connection.commit()
    SweepSync(sweep).sync()
    assert read_stored_points(runs_dir) == read_journal_points(sweep)
    assert curve(runs_dir, "best_value") == [(1, 0.5)]
    assert num_runs(runs_dir) == 2


def test_moved_sweep_is_found_by_its_key(runs_dir: Path) -> None:
    sweep = make_swept(runs_dir, LRS)
    run_trial(sweep, ledgers.ids(1)[0], 0.5)
    SweepSync(sweep).sync()
    before = sql(runs_dir / "mlflow.db", "select count(*) from metrics"), num_runs(runs_dir)
    shutil.copytree(sweep.folder, runs_dir / "elsewhere", ignore=shutil.ignore_patterns("sync.*"))
    SweepSync(Sweep(runs_dir / "elsewhere")).sync()
    assert (sql(runs_dir / "mlflow.db", "select count(*) from metrics"), num_runs(runs_dir)) == before


def test_extended_sweep_renames_runs_and_keeps_its_first_parameters(runs_dir: Path) -> None:
    sweep = make_swept(runs_dir, LRS[:1])
    run_trial(sweep, ledgers.ids(1)[0], 0.5)
    syncs = SweepSync(sweep)
    syncs.sync()
    spec = yaml.safe_load((sweep.folder / "sweep.yaml").read_text())
    spec |= {"num_seeds": 2, "space": {"optimizer.lr": [0.001, 0.01]}, "budget": {**spec["budget"], "max_points": 7}}
    (sweep.folder / "sweep.yaml").write_text(yaml.safe_dump(spec))
    ledger = sweep.ledger()
    with ledger.locked():
        new_trial = {"point": 0, "values": {"optimizer.lr": 0.001}, "reused": None}
        ledger.add([{"trial": "c0", "seed": 1, **new_trial}])
    run_trial(sweep, "c0", 0.25)
    syncs.sync()
    assert set(read_children(runs_dir)) == {"lr=0.001, seed=0", "lr=0.001, seed=1"}
    assert read_run_tags(runs_dir, "lr=0.001, seed=0")["mlflow.runName"] == "lr=0.001, seed=0"
    assert curve(runs_dir, "best_value") == [(1, 0.5), (2, 0.375)]
    SweepSync(sweep).sync()
    params = read_run_params(runs_dir, "probe")
    assert (params["num_seeds"], params["space.optimizer.lr"], params["budget.max_points"]) == ("1", "0.001", "7")
    assert "| `optimizer.lr` | `0.001,0.01` |" in read_run_tags(runs_dir, "probe")["mlflow.note.content"]
    (uploaded,) = runs_dir.glob("artifacts/*/artifacts/sweep.yaml")
    assert yaml.safe_load(uploaded.read_text())["num_seeds"] == 2


def test_sync_all_accepts_sweeps_trials_and_runs(runs_dir: Path) -> None:
    one, two = (make_swept(runs_dir, LRS, name=name) for name in ("one", "two"))
    for sweep in (one, two):
        for trial in ledgers.ids(2):
            run_trial(sweep, trial, 0.5)
    single = make_run(runs_dir, "feedbeef")
    with start_attempt(single) as log:
        log_steps(log, range(2))
    summary = sync_all(runs_dir, ["one", "twice", str(two.folder / ledgers.ids(2)[1])])
    assert (summary.runs, summary.points) == (3, 12)
    assert len(summary.failures) == 1
    assert "there is no run 'twice'" in summary.failures[0]
    assert read_run_tags(runs_dir, "two")["lathe.finished"] == "2"
    assert sync_all(runs_dir) == (5, 8, (), ())
    assert sync_all(runs_dir, ["feed"]) == (1, 0, (), ())
    assert read_run_tags(runs_dir, "blobs")["lathe.kind"] == "run"
    (one.folder / "templates.json").write_text("[")
    (two.folder / ledgers.ids(1)[0] / "trial.yaml").write_text("tracking: [")
    (two.folder / "sync.json").unlink()
    summary = sync_all(runs_dir)
    assert [failure.split(" is damaged")[0] for failure in summary.failures] == [
        str(one.folder / "templates.json"), str(two.folder / ledgers.ids(1)[0] / "trial.yaml"),
    ]  # fmt: skip
    assert summary.runs == 2


def test_store_that_is_down_is_reported_once(tmp_path: Path) -> None:
    sweep = make_swept(tmp_path, LRS, store=f"http://user:hush@127.0.0.1:{free_port()}")
    run_trial(sweep, ledgers.ids(1)[0], 0.5)
    (message,) = SweepSync(sweep).sync().failures
    assert message.startswith("tracking.store=http://***@127.0.0.1:")
    assert " did not take 'probe': " in message
    assert message.endswith(f"its journals hold everything, `lathe sync {sweep.folder}` retries")
    assert "hush" not in message


def test_refused_artifacts_block_nothing_else(runs_dir: Path) -> None:
    sweep = make_swept(runs_dir, LRS)
    for trial in ledgers.ids(2):
        run_trial(sweep, trial, 0.5)
    (runs_dir / "artifacts").write_text("a file where the folder should be")
    syncs = SweepSync(sweep)
    assert len(syncs.sync().failures) == 1  # the artifacts of the parent, uploaded last
    assert read_stored_points(runs_dir) == read_journal_points(sweep)
    assert curve(runs_dir, "finished") == [(1, 1.0), (2, 2.0)]
    (runs_dir / "artifacts").unlink()
    assert syncs.sync().failures == ()
    assert len(list(runs_dir.glob("artifacts/*/artifacts/trial.yaml"))) == 2


def row(trial: str, values: Mapping[str, Any], seed: int = 0) -> TrialRow:
    nothing: dict[str, Any] = dict.fromkeys(
        ("num_steps", "last", "value", "took_s", "failure", "reason", "reused"), None
    )
    return TrialRow(
        id=trial, point=0, values=dict(values), seed=seed, state="pending", step=0, attempt=0, worker="", host="",
        since=0.0, in_state_s=0.0, used_h=0.0, wasted_h=0.0, **nothing,
    )  # fmt: skip


def test_runs_are_named_by_the_values_that_differ() -> None:
    rows = [
        row("a", {"optimizer.lr": 0.003, "model.head.dropout": 0.1, "model.body.dropout": 0.2, "optimizer": "sgd"}),
        row("b", {"optimizer.lr": 1e-05, "model.channels": [16, 32]}, seed=1),
        row("c", {}, seed=2),
    ]
    assert sweep_tags.make_run_names(rows, with_seed=False, alone="probe") == {
        "a": "lr=0.003, head.dropout=0.1, body.dropout=0.2, optimizer=sgd",
        "b": "lr=1e-05, channels=[16, 32]",
        "c": "probe",
    }
    assert sweep_tags.make_run_names(rows[1:], with_seed=True, alone="probe")["c"] == "seed=2"
    long = {f"key_{number}": "v" * 50 for number in range(20)}
    assert len(sweep_tags.make_run_names([row("d", long)], with_seed=True, alone="")["d"]) == 200


def test_nested_key_names_its_option() -> None:
    log = {"low": 0.001, "high": 0.1, "log": True}
    space = parse({"optimizer": {"sgd": {"optimizer.lr": [0.1, 1]}, "adam": {"optimizer.lr": log}}})
    assert sweep_tags.describe_axes(space) == {
        "optimizer": "sgd,adam",
        "optimizer.lr": "0.1,1 with optimizer=sgd; tag(log, interval(0.001, 0.1)) with optimizer=adam",
    }


def test_curve_of_a_partial_ledger_is_a_prefix(tmp_path: Path) -> None:
    generator = random.Random(7)
    sweep = ledgers.make_idle_sweep(tmp_path, "probe", LRS * 4, seeds=2, mode="min")
    ledger = sweep.ledger()
    for _ in range(200):
        with ledger.locked() as ledger_state:
            entry = generator.choice(list(ledger_state.entries.values()))
            if entry.state == "pending":
                ledger.claim(entry, worker="w", host="h", devices=2)
            elif entry.state == "running":
                state: Any = generator.choice(["finished", "failed", "pending", "pruned", "cancelled"])
                ledger.end(
                    entry.id, entry.attempt, state, value=generator.choice([None, float("nan"), generator.random()])
                )
            else:
                ledger.retry([entry.id])
    lines = [*Ledger(ledger.folder).read_events()]
    whole, part = BestSoFar("min"), BestSoFar("min")
    for line in lines:
        whole.apply(line)
    for line in lines[: len(lines) // 2]:
        part.apply(line)
    assert part.curve == whole.curve[: len(part.curve)]
    assert [point["step"] for point in whole.curve] == list(range(1, len(whole.curve) + 1))
    assert whole.entries == ledger.read().entries
    last = whole.curve[-1]["metrics"]
    assert last["sweep/finished"] == sum(entry.state == "finished" for entry in whole.entries.values())
    assert last["sweep/device_h_used"] == pytest.approx(sum(e.used_s for e in whole.entries.values()) / 3600, abs=1e-12)
    means = [whole.average_value(point) for point in whole.points]
    known = [mean for mean in means if mean is not None and mean == mean]
    assert last.get("sweep/best_value") == (min(known) if known else None)


@pytest.mark.slow
def test_concurrent_syncs_create_one_parent_and_one_run_per_trial(runs_dir: Path) -> None:
    sweep = make_swept(runs_dir, LRS, seeds=2)
    for trial in ledgers.ids(6):
        run_trial(sweep, trial, 0.5)
    outcomes = sync_at_once([sweep.folder] * 4)
    assert [outcome.code for outcome in outcomes] == [0] * 4
    assert sorted(outcome.printed.split("points=")[1] for outcome in outcomes) == [
        "0, failures=(), warnings=())"
    ] * 3 + ["24, failures=(), warnings=())"]
    assert read_stored_points(runs_dir) == read_journal_points(sweep)
    assert num_runs(runs_dir) == 7


@pytest.mark.slow
def test_sync_that_is_killed_at_any_call_loses_and_doubles_nothing(runs_dir: Path) -> None:
    generator = random.Random(5)
    sweep = make_swept(runs_dir, LRS, seeds=2)
    for trial in ledgers.ids(6):
        run_trial(sweep, trial, 0.5, range(2, 200, 2))
    assert sync_and_kill(sweep.folder, [generator.randrange(1, 80) for _ in range(8)]) == [-signal.SIGKILL] * 8
    summary = SweepSync(sweep).sync()
    assert (summary.runs, summary.failures) == (6, ())
    assert read_stored_points(runs_dir) == read_journal_points(sweep)
    assert curve(runs_dir, "finished") == [(step, float(step)) for step in range(1, 7)]
    assert num_runs(runs_dir) == 7
    assert SweepSync(sweep).sync() == (6, 0, (), ())


def test_trials_of_a_worker_are_in_the_store(runs_dir: Path) -> None:
    points = [{"optimizer.lr": 0.001}, {"optimizer.lr": 0.01}]
    sweep = sweeps.make_sweep(runs_dir, points, "tracking=sqlite", f"runs_dir={runs_dir}", num_seeds=2)
    assert sweeps.start_worker(sweep).wait(timeout=PATIENCE_S) == 0
    assert sync_all(runs_dir, ["probe"]).failures == ()
    assert set(read_children(runs_dir)) == {f"lr={lr}, seed={seed}" for lr in (0.001, 0.01) for seed in (0, 1)}
    assert read_stored_points(runs_dir) == read_journal_points(sweep)
    state = sweep.ledger().read()
    assert curve(runs_dir, "best_value")[-1] == (4, max(state.average_value(point) or 0.0 for point in (0, 1)))


@pytest.mark.slow
def test_killed_workers_and_followers_leave_a_complete_store(runs_dir: Path, preloaded: Path) -> None:
    Preloaded.address = str(preloaded)
    length = ("max_steps=6000", "eval_every_steps=50", "checkpoint.every_steps=50", "log_every_steps=10")
    points = [{"optimizer.lr": 0.001}, {"optimizer.lr": 0.01}]
    sweep = sweeps.make_sweep(runs_dir, points, "tracking=sqlite", f"runs_dir={runs_dir}", *length)
    follower = [sys.executable, "-P", "-m", "experiments.tracking.follow_sweep", str(sweep.folder)]
    following = Preloaded(follower)
    wait_until(lambda: num_runs(runs_dir) == 1, "the parent's run")
    worker = sweeps.start_worker(sweep, "first")
    query = f"select count(*) from metrics where key = '{METRIC}'"
    wait_until(lambda: sql(runs_dir / "mlflow.db", query)[0][0] >= 2, "a point in the store")
    child = sweeps.wait_for_child(worker)
    os.kill(worker.pid, signal.SIGKILL)
    os.kill(following.pid, signal.SIGKILL)
    worker.wait()
    following.wait()
    wait_until(lambda: not Path(f"/proc/{child}").exists(), "the end of the orphan")
    sweeps.age_heartbeats(sweep)
    following = Preloaded(follower)
    assert sweeps.start_worker(sweep, "second").wait(timeout=PATIENCE_S) == 0
    assert following.wait(timeout=PATIENCE_S) == 0
    entries = sweep.ledger().read().entries.values()
    assert {entry.state for entry in entries} == {"finished"}
    assert max(entry.attempt for entry in entries) == 2
    assert set(read_children(runs_dir).values()) == {"FINISHED"}
    assert read_parent_status(runs_dir) == "FINISHED"
    assert read_stored_points(runs_dir) == read_journal_points(sweep)
    steps = Counter((trial, step) for trial, key, step, _ in read_stored_points(runs_dir) if key == METRIC)
    assert set(steps.values()) == {1}
    assert len(steps) == 2 * 6000 // 50


def test_trial_synced_alone_is_the_same_run(runs_dir: Path) -> None:
    sweep = make_swept(runs_dir, LRS)
    trial = ledgers.ids(1)[0]
    run_trial(sweep, trial, 0.5)
    sync_run(sweep.trial(ledgers.read_entry(sweep, trial)))
    SweepSync(sweep).sync()
    assert num_runs(runs_dir) == 2
    assert read_children(runs_dir) == {"lr=0.001": "FINISHED"}
    assert "mlflow.parentRunId" in read_run_tags(runs_dir, "lr=0.001")


def test_trial_that_could_not_be_written_is_in_the_note_of_the_parent(runs_dir: Path) -> None:
    sweep = make_swept(runs_dir, LRS)
    trial = ledgers.ids(1)[0]
    ledgers.claim_trial(sweep, trial)
    ledgers.end_trial(sweep, trial, "failed", failure="config error", reason="hardware.device=cuda")
    assert SweepSync(sweep).sync() == (0, 0, (), ())
    assert "| config error | 1 | `lr=0.001`: " in read_run_tags(runs_dir, "probe")["mlflow.note.content"]
    assert not journal.journals(sweep.folder / trial)
    assert isinstance(Sweep(sweep.folder).ledger().read(), LedgerState)
