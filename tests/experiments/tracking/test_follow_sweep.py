"""The background process that syncs a sweep while it runs."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from experiments.sweep.sweep import Sweep
from experiments.tracking import follow_sweep, mlflow_client
from tests.support import ledgers
from tests.support.preloaded import Preloaded
from tests.support.recorded_sweeps import (
    make_space,
    make_swept,
    read_children,
    read_journal_points,
    read_parent_status,
    read_stored_points,
    run_trial,
    start_trial,
)
from tests.support.stores import forked_server, free_port, sql
from tests.support.waiting import PATIENCE_S, wait_until

LRS = [{"optimizer.lr": lr} for lr in (0.001, 0.01)]
FIRST, SECOND = ledgers.ids(2)


@pytest.fixture
def followers(preloaded: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The followers of a test, which end with it. They are forks, because the import of MLflow takes 4 s of a core."""
    monkeypatch.setattr(Preloaded, "address", str(preloaded), raising=False)
    monkeypatch.setattr(subprocess, "Popen", Preloaded)
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()


def start(sweep: Sweep, followers: list[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    process = follow_sweep.start_follower(sweep)
    assert process is not None
    followers.append(process)
    return process


def read_log(sweep: Sweep) -> str:
    return (sweep.folder / "sync.log").read_text()


def has_children(runs_dir: Path, count: int) -> bool:
    return len(read_children(runs_dir)) == count


@pytest.mark.slow
def test_follower_syncs_a_sweep_while_it_runs_and_ends_with_it(
    runs_dir: Path, followers: list[subprocess.Popen[bytes]]
) -> None:
    sweep = make_swept(runs_dir, LRS)
    process = start(sweep, followers)
    start_trial(sweep, FIRST)
    ledgers.log_metric(sweep, FIRST, {100: 0.25})
    wait_until(lambda: len(read_stored_points(runs_dir)) == 2)
    assert read_parent_status(runs_dir) == "RUNNING"
    os.kill(process.pid, signal.SIGINT)  # Ctrl-C in the terminal of `lathe sweep`
    os.kill(process.pid, signal.SIGHUP)
    ledgers.end_trial(sweep, FIRST, "finished", value=0.25)
    run_trial(sweep, SECOND, 0.5)
    assert process.wait(timeout=PATIENCE_S) == 0
    assert read_stored_points(runs_dir) == read_journal_points(sweep)
    assert set(read_children(runs_dir).values()) == {"FINISHED"}
    assert (read_parent_status(runs_dir), read_log(sweep)) == ("FINISHED", "")


@pytest.mark.slow
def test_sync_at_end_uploads_nothing_before(runs_dir: Path, followers: list[subprocess.Popen[bytes]]) -> None:
    sweep = make_swept(runs_dir, LRS, sync="end")
    process = start(sweep, followers)
    run_trial(sweep, FIRST, 0.5)
    wait_until(lambda: (sweep.folder / "follow.lock").exists())
    assert sql(runs_dir / "mlflow.db", "select count(*) from runs") == [(0,)]
    run_trial(sweep, SECOND, 0.5)
    assert process.wait(timeout=PATIENCE_S) == 0
    assert read_stored_points(runs_dir) == read_journal_points(sweep)


def test_a_sweep_without_tracking_is_not_followed(runs_dir: Path) -> None:
    assert follow_sweep.start_follower(make_swept(runs_dir, LRS, sync="off")) is None


@pytest.mark.slow
def test_follower_waits_for_a_strategy_that_may_add_trials(
    runs_dir: Path, followers: list[subprocess.Popen[bytes]]
) -> None:
    strategy = {"name": "tpe", "seed": 0, "startup_points": 10}
    budget = {"max_points": 1, "wall_h": None, "device_h": None}
    sweep = make_swept(runs_dir, [], strategy=strategy, budget=budget, space=make_space(LRS))
    process = start(sweep, followers)
    wait_until(lambda: sql(runs_dir / "mlflow.db", "select count(*) from runs") == [(1,)])
    ledger = sweep.ledger()
    with ledger.locked():
        trial = {"trial": FIRST, "point": 0, "values": LRS[0], "seed": 0, "reused": None}
        ledger.add([trial])
    run_trial(sweep, FIRST, 0.5)
    assert process.wait(timeout=PATIENCE_S) == 0
    assert (read_children(runs_dir), read_parent_status(runs_dir)) == ({"lr=0.001": "FINISHED"}, "FINISHED")


@pytest.mark.slow
def test_follower_ends_when_the_folder_is_gone(runs_dir: Path, followers: list[subprocess.Popen[bytes]]) -> None:
    sweep = make_swept(runs_dir, LRS)
    process = start(sweep, followers)
    start_trial(sweep, FIRST)
    ledgers.log_metric(sweep, FIRST, {100: 0.25})
    wait_until(lambda: has_children(runs_dir, 1))
    sweep.folder.rename(runs_dir / "gone")  # in one stroke, while it may be writing there
    assert process.wait(timeout=PATIENCE_S) == 0
    assert not sweep.folder.exists()


@pytest.mark.slow
def test_server_that_was_down_gets_everything(
    tmp_path: Path, served_store: Path, preloaded: Path, followers: list[subprocess.Popen[bytes]]
) -> None:
    port = free_port()
    sweep = make_swept(tmp_path, LRS, store=f"http://127.0.0.1:{port}")
    process = start(sweep, followers)
    run_trial(sweep, FIRST, 0.25)
    wait_until(lambda: "did not take 'probe'" in read_log(sweep))
    with forked_server(preloaded, served_store, port):
        wait_until(lambda: len(read_stored_points(tmp_path, "served.db")) == 4)
    run_trial(sweep, SECOND, 0.5)
    assert process.poll() is None
    with forked_server(preloaded, served_store, port):
        assert process.wait(timeout=PATIENCE_S) == 0
    assert read_stored_points(tmp_path, "served.db") == read_journal_points(sweep)
    assert sql(served_store, "select status, count(*) from runs group by 1") == [("FINISHED", 3)]
    assert len(read_log(sweep).splitlines()) <= 3  # one line each time that the store fails


def test_follower_gives_up_a_store_that_stays_down_after_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = make_swept(tmp_path, LRS, store=f"http://127.0.0.1:{free_port()}")
    for trial in (FIRST, SECOND):
        run_trial(sweep, trial, 0.5)
    monkeypatch.setattr(follow_sweep, "GIVE_UP_S", 0.0)
    monkeypatch.setattr(follow_sweep, "POLL_S", 0.01)
    assert follow_sweep.follow(sweep) == 1
    assert capsys.readouterr().err.count("`lathe sync ") == 1


PERMANENT = [
    ImportError("No module named 'psycopg'"),
    MlflowException("Invalid experiment name: ''", INVALID_PARAMETER_VALUE),
    MlflowException("API request failed with error code 403 != 200. Response body: 'Permission denied'"),
    MlflowException("Detected out-of-date database schema (found version a, but expected b). Take a backup"),
]


@pytest.mark.parametrize("err", PERMANENT, ids=lambda err: str(err)[:20])
def test_follower_ends_with_the_reason_if_no_retry_can_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], err: Exception
) -> None:
    def refuse(*_: object) -> None:
        raise err

    sweep = make_swept(tmp_path, LRS)  # it is not over
    monkeypatch.setattr(mlflow_client, "open_store", refuse)
    monkeypatch.setattr(follow_sweep, "POLL_S", 0.01)
    assert follow_sweep.follow(sweep) == 1
    assert capsys.readouterr().err.count("did not take 'probe'") == 1


def test_second_follower_leaves_the_sweep_to_the_first(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_swept(runs_dir, LRS)
    run_trial(sweep, FIRST, 0.5)
    run_trial(sweep, SECOND, 0.5)
    monkeypatch.setattr(sys, "argv", ["follow_sweep", str(sweep.folder)])
    monkeypatch.setattr(follow_sweep, "NICENESS", 0)
    monkeypatch.setattr(follow_sweep, "TAKE_OVER_S", 0.0)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        with (sweep.folder / "follow.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert follow_sweep.main() == 0
            assert read_children(runs_dir) == {}
            monkeypatch.setattr(follow_sweep, "TAKE_OVER_S", 60.0)
            waiting = threading.Thread(target=follow_sweep.main)
            monkeypatch.setattr(signal, "signal", lambda *_: None)  # which only the main thread may
            waiting.start()
            time.sleep(0.1)
        waiting.join(PATIENCE_S)
    finally:
        monkeypatch.undo()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert set(read_children(runs_dir).values()) == {"FINISHED"}


def test_folder_that_is_not_a_sweep_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "experiments.tracking.follow_sweep", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{tmp_path} is not a sweep: it has no sweep.yaml; name the folder of a sweep\n"
