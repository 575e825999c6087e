"""Sweeps in MLflow's store: one parent, one child a trial, no point lost or doubled whatever was killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from experiments.sweep import Sweep
from experiments.sync_sweep import sync_all, sync_sweep
from tests.sweeps import end, entries, make_sweep, start_worker, steps_done, wait_until

METRIC = "val/accuracy_top1"


def rows(runs_dir: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(runs_dir / "mlflow.db")) as connection:
        return connection.execute(query).fetchall()


def points(runs_dir: Path) -> list[tuple[object, ...]]:
    """Name of the run, step, and how often the store has the metric there."""
    query = "select name, step, count(*) from metrics join runs using (run_uuid) where key = '{}' group by name, step"
    return rows(runs_dir, query.format(METRIC))


def tracked(runs_dir: Path, *overrides: str) -> Sweep:
    points = [{"optimizer.lr": 0.001}, {"optimizer.lr": 0.01}]
    return make_sweep(runs_dir, points, "tracking=sqlite", f"runs_dir={runs_dir}", *overrides)


def test_a_sweep_is_a_parent_with_a_child_a_trial(runs_dir: Path) -> None:
    sweep = tracked(runs_dir)
    assert start_worker(sweep).wait(timeout=90) == 0
    summary = sync_all(runs_dir)
    assert (summary.failures, summary.runs) == ((), 2)
    assert rows(runs_dir, "select name, status from runs order by name") == [
        ("lr=0.001", "FINISHED"), ("lr=0.01", "FINISHED"), ("probe", "FINISHED"),
    ]  # fmt: skip
    parent = rows(runs_dir, "select run_uuid from runs where name = 'probe'")[0]
    assert rows(runs_dir, "select value from tags where key = 'mlflow.parentRunId'") == [parent, parent]
    assert points(runs_dir) == [(f"lr={lr}", step, 1) for lr in (0.001, 0.01) for step in (20, 40)]
    best = max(entry.value or 0 for entry in entries(sweep))
    assert rows(runs_dir, "select value from latest_metrics where key = 'sweep/best_value'") == [(best,)]


def test_a_second_sync_adds_nothing(runs_dir: Path) -> None:
    sweep = tracked(runs_dir)
    assert start_worker(sweep).wait(timeout=90) == 0
    sync_sweep(sweep)
    before = rows(runs_dir, "select count(*) from metrics")
    assert sync_sweep(sweep)[1] == 0
    (sweep.folder / "sync.json").unlink()  # as if another machine had brought it there
    sync_sweep(sweep)
    assert rows(runs_dir, "select count(*) from metrics") == before
    assert len(rows(runs_dir, "select * from runs")) == 3


def test_what_only_the_ledger_knows_is_told(runs_dir: Path) -> None:
    sweep = tracked(runs_dir, "max_steps=100000", "eval_every_steps=50", "checkpoint.every_steps=50")
    worker = start_worker(sweep)
    try:
        wait_until(lambda: steps_done(sweep, entries(sweep)[0]) >= 50, "step 50")
        sync_sweep(sweep)
        assert rows(runs_dir, "select status from runs where name = 'lr=0.001'") == [("RUNNING",)]
    finally:
        end(worker)
    ledger = sweep.ledger()
    with ledger.locked():
        ledger.end(entries(sweep)[0].id, 1, "waiting", failure="node lost", reason="gone")
    sync_sweep(sweep)
    assert rows(runs_dir, "select status from runs where name = 'lr=0.001'") == [("SCHEDULED",)]
    with ledger.locked() as standing:
        ledger.cancel(list(standing.entries), "by hand")
        ledger.close("cancelled by hand")
    sync_sweep(sweep)
    assert rows(runs_dir, "select distinct status from runs") == [("KILLED",)]


@pytest.mark.slow
def test_a_sync_that_is_killed_loses_and_doubles_nothing(runs_dir: Path) -> None:
    sweep = tracked(runs_dir, "eval_every_steps=1", "log_every_steps=1")
    assert start_worker(sweep).wait(timeout=90) == 0
    for pause_s in (1.5, 2.0, 2.5, 3.0):  # MLflow's import takes about two
        syncing = subprocess.Popen([sys.executable, "-P", "-m", "experiments.follow_sweep", str(sweep.folder)])
        time.sleep(pause_s)
        os.kill(syncing.pid, signal.SIGKILL)
        syncing.wait()
    sync_sweep(sweep)
    assert points(runs_dir) == [(f"lr={lr}", step, 1) for lr in (0.001, 0.01) for step in range(1, 41)]
    assert len(rows(runs_dir, "select * from runs")) == 3


def test_the_follower_ends_with_the_sweep(runs_dir: Path) -> None:
    sweep = tracked(runs_dir)
    following = subprocess.Popen([sys.executable, "-P", "-m", "experiments.follow_sweep", str(sweep.folder)])
    assert start_worker(sweep).wait(timeout=90) == 0
    assert following.wait(timeout=60) == 0
    assert rows(runs_dir, "select status from runs where name = 'probe'") == [("FINISHED",)]
