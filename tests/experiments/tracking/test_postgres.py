"""PostgreSQL as MLflow's store: a real server, with many processes at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.tracking.run_sync import sync_run
from experiments.tracking.store_uri import StoreError
from experiments.tracking.sweep_sync import SweepSync, sync_all
from experiments.trial.trial import Trial
from tests.support import ledgers
from tests.support.databases import PASSWORD, Postgres, postgres
from tests.support.recorded_sweeps import make_swept, read_journal_points, run_trial
from tests.support.stores import log_steps, make_run, start_attempt, write_outcome
from tests.support.variants import only_long
from tests.support.waiting import PATIENCE_S, wait_until

NUM_TRIALS, NUM_ROUNDS, NUM_STEPS = 16, 2, 100
VARIABLE = "LATHE_TEST_STORE"
# One process imports MLflow; each of its children is a trial that writes its journal and brings it to the store meanwhile.
TRIALS = f"""
import os, sys, traceback
from pathlib import Path
from experiments.tracking import mlflow_client
from experiments.tracking.run_sync import RunSync
from experiments.trial.trial import Trial
from tests.support.stores import log_steps, start_attempt, write_outcome
mlflow_client.get_store_errors()
from mlflow import MlflowClient
def live(folder):
    trial = Trial(Path(folder))
    syncing = RunSync(trial)
    with start_attempt(trial) as journal:
        for first in range(0, {NUM_ROUNDS * NUM_STEPS}, {NUM_STEPS}):
            log_steps(journal, range(first, first + {NUM_STEPS}))
            syncing.sync(reconcile=False)
    write_outcome(trial)
    syncing.sync(reconcile=False)
children = []
for folder in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            live(folder)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    children.append(child)
sys.exit(max(os.waitpid(child, 0)[1] for child in children) >> 8)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as uri:
        yield uri


@pytest.mark.slow
def test_16_concurrent_trials_on_a_new_database_lose_and_double_nothing(
    server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = server.new_database()
    monkeypatch.setenv(VARIABLE, server.uri(database))
    trials = [make_run(tmp_path, f"run{number}", store=f"${{oc.env:{VARIABLE}}}") for number in range(NUM_TRIALS)]
    folders = [str(trial.folder) for trial in trials]
    done = subprocess.run(
        [sys.executable, "-c", TRIALS, *folders], cwd=Path(__file__).parents[3], env=os.environ, text=True,
        capture_output=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    steps = NUM_ROUNDS * NUM_STEPS
    assert server.sql(database, "select count(*) from metrics") == [(NUM_TRIALS * steps * 2,)]
    by_run = "select count(*), count(distinct (key, step)), sum(case when key = 'train/loss_nats' then value end) from metrics"
    assert (
        server.sql(database, f"{by_run} group by run_uuid") == [(steps * 2, steps * 2, float(sum(range(steps))))] * 16
    )
    runs = "select e.name, status, count(*) from runs join experiments e using (experiment_id) group by 1, 2"
    assert server.sql(database, runs) == [("lathe", "FINISHED", NUM_TRIALS)]
    assert sync_all(tmp_path)[:2] == (NUM_TRIALS, 0)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]


def sync_until_done(runs_dir: Path) -> None:
    """Sync as a follower does, which tries again."""
    deadline = time.monotonic() + 120
    while sync_all(runs_dir).failures:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
@only_long
def test_restarts_of_the_server_lose_and_double_nothing(
    server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = server.new_database()
    monkeypatch.setenv(VARIABLE, server.uri(database))
    store = f"${{oc.env:{VARIABLE}}}"
    for folder in range(5):  # each is synced by one process, with a connection of its own
        for number in range(12):
            with start_attempt(make_run(tmp_path / f"{folder}", f"{folder}{number:02}", store=store)) as journal:
                log_steps(journal, range(500))
    context = multiprocessing.get_context("fork")
    syncs = [context.Process(target=sync_until_done, args=(tmp_path / f"{folder}",)) for folder in range(5)]
    for sync in syncs:
        sync.start()
    query = "select count(*) from information_schema.tables where table_name = 'metrics'"
    wait_until(lambda: server.sql(database, query) == [(1,)])
    while any(sync.is_alive() for sync in syncs):
        server.restart()
        time.sleep(3)
    assert [sync.exitcode for sync in syncs] == [0] * 5
    by_run = "select count(*), count(distinct (key, step)) from metrics group by run_uuid"
    assert server.sql(database, by_run) == [(1000, 1000)] * 60


@pytest.mark.slow
def test_sweep_and_runs_of_nodes_without_network_are_synced_later(
    server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = server.new_database()
    monkeypatch.setenv(VARIABLE, server.uri(database))
    store = f"${{oc.env:{VARIABLE}}}"
    sweep = make_swept(tmp_path, [{"optimizer.lr": lr} for lr in (0.001, 0.01)], store=store, sync="off")
    for name, value in zip(ledgers.ids(2), (0.5, 0.7), strict=True):
        run_trial(sweep, name, value)
    trial = make_run(tmp_path, store=store)
    with start_attempt(trial) as journal:
        log_steps(journal, range(30))
    write_outcome(trial)
    summary = sync_all(tmp_path)
    assert (summary.runs, summary.failures) == (3, ())
    query = "select t.value, m.key, m.step, m.value from metrics m join tags t using (run_uuid) where t.key = 'lathe.trial_id'"
    stored = [
        row for row in server.sql(database, query) if not row[1].startswith("system/cost_")
    ]  # these the ledger tells
    assert sorted(row for row in stored if row[0] != "a1b2c3") == read_journal_points(sweep)
    assert len(stored) == 60 + len(read_journal_points(sweep))
    (view,) = server.sql(database, "select value from experiment_tags where key like 'mlflow.sharedViewState.%'")
    assert json.loads(view[0])["name"] == "sweep probe"
    assert SweepSync(sweep).sync()[:2] == (2, 0)


def test_store_without_a_driver_is_an_error(tmp_path: Path) -> None:
    trial = make_run(tmp_path, store="postgresql+pg8000://me@127.0.0.1/mlflow")
    start_attempt(trial).close()
    with pytest.raises(StoreError) as caught:
        sync_run(Trial(trial.folder))
    assert "Python has no driver for its database (No module named 'pg8000')" in str(caught.value)
    assert "`pip install 'psycopg[binary]'`" in str(caught.value)
