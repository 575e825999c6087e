"""The live sync: while a run trains, while its server is down, and after its launcher has exited."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from experiments.run.journal import Journal, replay
from experiments.run.state import is_process_alive
from experiments.tracking import follow_run
from experiments.tracking.mlflow_client import make_store_error
from experiments.tracking.run_sync import RunSync
from experiments.tracking.trackers.mlflow_metric import make_metric_name
from experiments.trial.trial import Trial
from tests.support.preloaded import Preloaded, make_command
from tests.support.stores import (
    DEAD_PID,
    forked_server,
    free_port,
    log_steps,
    make_expected_metrics,
    make_run,
    read_metrics,
    read_status,
    rewrite_states,
    sql,
    start_attempt,
    write_outcome,
)
from tests.support.waiting import PATIENCE_S, wait_until


def follower(trial: Trial, *args: str, server: Path | None = None) -> subprocess.Popen[str]:
    """Start a follower; with a server it is a fork, which has imported MLflow."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "experiments.tracking.follow_run",
        str(trial.folder),
        "--attempt",
        "1",
        *args,
    ]
    pipe = subprocess.PIPE  # as a launcher holds it: its end tells that the launcher has left
    if server is not None:
        Preloaded.address = str(server)
    return (subprocess.Popen if server is None else Preloaded)(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.slow
def test_follower_uploads_points_while_the_run_trains(runs_dir: Path) -> None:
    trial = make_run(runs_dir)
    process = follower(trial)
    with start_attempt(trial) as journal:
        log_steps(journal, range(10))
        wait_until(lambda: len(read_metrics(runs_dir)) == 20)
        assert read_status(runs_dir) == "RUNNING"
        log_steps(journal, range(10, 20))
        journal.state("finished", step=20, attempt=1)
    write_outcome(trial)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[-1]["pending"] == 0
    assert lines[-1]["run_id"] == lines[0]["run_id"]
    assert all(line["error"] is None for line in lines)
    assert (read_metrics(runs_dir), read_status(runs_dir)) == (make_expected_metrics(range(20)), "FINISHED")


@pytest.mark.slow
def test_server_that_dies_under_a_follower_loses_and_doubles_nothing(
    tmp_path: Path, served_store: Path, preloaded: Path
) -> None:
    port = free_port()
    trial = make_run(tmp_path, store=f"http://127.0.0.1:{port}")
    with forked_server(preloaded, served_store, port), start_attempt(trial) as journal:
        process = follower(trial, server=preloaded)
        log_steps(journal, range(50))
        wait_until(lambda: sql(served_store, "select count(*) from metrics") == [(100,)])
        for step in range(50, 100):  # the kill falls between two of these uploads or into one
            log_steps(journal, range(step, step + 1))
            time.sleep(0.03)
    with Journal(journal.path) as journal:
        log_steps(journal, range(100, 150))
        assert process.stdout is not None
        while json.loads(process.stdout.readline())["error"] is None:
            pass
        assert process.poll() is None
        with forked_server(preloaded, served_store, port):
            log_steps(journal, range(150, 200))
            write_outcome(trial)
            out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out.splitlines()[-1])["error"] is None
    points = sql(served_store, "select key, step, value from metrics order by key, step, value")
    assert points == make_expected_metrics(range(200))
    assert sql(served_store, "select status, count(*) from runs") == [("FINISHED", 1)]


@pytest.mark.slow
def test_follower_gives_up_after_its_grace_period_with_one_line(tmp_path: Path, preloaded: Path) -> None:
    trial = make_run(tmp_path, store=f"http://127.0.0.1:{free_port()}")
    with start_attempt(trial) as journal:
        log_steps(journal, range(3))
    write_outcome(trial)
    process = follower(trial, "--grace-s", "2", server=preloaded)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert err.count("\n") == 1
    assert f"`lathe sync {trial.reference}` retries" in err
    assert json.loads(out.splitlines()[-1])["pending"] == 4


def _refuse(code: str) -> Exception:
    from mlflow.exceptions import MlflowException
    from mlflow.protos import databricks_pb2

    return MlflowException("refused", getattr(databricks_pb2, code))


@pytest.mark.parametrize(
    ("make", "is_permanent"),
    [
        (lambda: _refuse("INVALID_PARAMETER_VALUE"), True),
        (lambda: _refuse("PERMISSION_DENIED"), True),
        (lambda: Exception("API request to endpoint failed with error code 401 != 200"), True),
        (lambda: Exception("API request to endpoint failed with error code 403 != 200"), True),
        (lambda: ModuleNotFoundError("No module named 'psycopg'"), True),
        (lambda: PermissionError(13, "Permission denied", "/runs/mlflow.db"), True),
        (lambda: _refuse("TEMPORARILY_UNAVAILABLE"), False),
        (lambda: _refuse("INTERNAL_ERROR"), False),
        (lambda: ConnectionRefusedError(111, "Connection refused"), False),
        (lambda: OSError(28, "No space left on device"), False),
    ],
)
def test_a_finished_run_does_not_wait_for_an_error_that_no_retry_can_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Exception], is_permanent: bool
) -> None:
    trial, calls, left = make_run(tmp_path), list[int](), threading.Event()
    error = make_store_error(make(), "a1b2c3", None, "sqlite:///x", "a1b2c3")
    assert error.is_permanent == is_permanent

    def refuse(self: object, *, reconcile: bool) -> NoReturn:
        calls.append(1)
        raise error

    monkeypatch.setattr(RunSync, "sync", refuse)
    with start_attempt(trial) as journal:
        journal.state("finished", step=1, attempt=1)
    write_outcome(trial)
    left.set()
    assert follow_run.follow(trial, 1, left, grace_s=1e6 if is_permanent else 0.0, say=lambda line: None) == 1
    assert len(calls) == 1


@pytest.mark.slow
def test_follower_ends_when_launcher_and_job_are_gone(runs_dir: Path) -> None:
    trial = make_run(runs_dir)
    with start_attempt(trial) as journal:
        log_steps(journal, range(3))
    rewrite_states(journal.path, pid=DEAD_PID)
    launcher = (
        "import subprocess, sys\n"
        "command = [sys.executable, '-m', 'experiments.tracking.follow_run', sys.argv[1]]\n"
        "print(subprocess.Popen(command, stdin=subprocess.PIPE).pid, flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", launcher, str(trial.folder)], stdout=subprocess.PIPE, text=True, check=True
    )
    pid = int(done.stdout.splitlines()[0])
    wait_until(lambda: not is_process_alive(socket.gethostname(), pid, time.time()))
    assert (read_metrics(runs_dir), read_status(runs_dir)) == (make_expected_metrics(range(3)), "KILLED")


@pytest.mark.slow
def test_run_whose_server_dies_finishes_and_is_synced_later(
    tmp_path: Path, served_store: Path, preloaded: Path
) -> None:
    port = free_port()
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}", "LATHE_RUNS": str(tmp_path / "runs")}
    lathe = make_command(preloaded)
    overrides = ["model=mlp", "max_steps=3000", "log_every_steps=5", "eval_every_steps=500", "tracking=server"]
    with forked_server(preloaded, served_store, port):
        run = subprocess.Popen([*lathe, "run", *overrides], env=environment, stdout=subprocess.PIPE, text=True)
        wait_until(lambda: sql(served_store, "select count(*) from metrics") > [(100,)])
    assert run.stdout is not None
    output = run.stdout.read()
    run.stdout.close()
    assert run.wait(timeout=PATIENCE_S) == 0
    assert "mlp-digits: finished" in output
    (folder,) = (tmp_path / "runs" / "single").glob("*/")
    assert f"`lathe sync {folder.name}` retries" in output
    with forked_server(preloaded, served_store, port):
        done = subprocess.run(
            [*lathe, "sync"], env=environment, text=True, capture_output=True, timeout=PATIENCE_S, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")
    points = [
        (make_metric_name(key), event["step"])
        for event in replay(folder)
        if event["event"] == "metrics"
        for key in event["metrics"]
    ]
    assert sql(served_store, "select key, step from metrics order by key, step") == sorted(points)
    assert sql(served_store, "select status from runs") == [("FINISHED",)]
