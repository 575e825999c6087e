"""Real run folders, stores and servers for tests of the sync; only training is missing."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import yaml

from experiments.run.journal import Journal
from experiments.trial.trial import Trial
from tests.support.preloaded import Preloaded

DEAD_PID = 2**22 + 1  # above the highest process id of Linux


def make_run(runs_dir: Path, name: str = "a1b2c3", store: str | None = None, **config: Any) -> Trial:
    """Make a run folder as `freeze` writes it, without attempts."""
    folder = runs_dir / "single" / name
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "lathe.patch").write_text("diff\n")
    base = {
        "name": "blobs",
        "description": "does it learn?",
        "model": {"_target_": "modules.model.mlp.Mlp", "hidden_sizes": [64, 32], "dropout_prob": 0.0, "extra": {}},
        "data": {"_target_": "modules.data.blobs.Blobs", "root": None},
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 1e-05, "nesterov": True},
        "tracking": {"store": store, "experiment": "lathe", "sync": "live"},
    }
    provenance = {
        "trial_id": name,
        "run_key": f"key-of-{name}",
        "overrides": ["model=mlp", "optimizer.lr=1e-5"],
        "code": [{"name": "lathe", "git_sha": "0123abcd" * 5, "branch": "main", "dirty": True}],
    }
    (folder / "trial.yaml").write_text(yaml.safe_dump(base | config, sort_keys=False))
    (folder / "provenance.yaml").write_text(yaml.safe_dump(provenance))
    return Trial(folder)


def start_attempt(trial: Trial, number: int = 1, step: int = 0) -> Journal:
    journal = Journal(trial.folder / "attempts" / str(number) / "journal.jsonl")
    journal.state("running", step=step, attempt=number)
    return journal


def log_steps(journal: Journal, steps: range, offset: float = 0.0) -> None:
    for step in steps:
        journal.metrics(step, {"train/loss_nats": step + offset, "train/time_s": 0.5})


def write_outcome(trial: Trial, status: str = "finished", number: int = 1) -> None:
    outcome = {"status": status, "attempt": number, "reason": None, "exit_code": 0, "ended": time.time()}
    partial = trial.folder / "outcome.partial"
    partial.write_text(json.dumps(outcome))
    partial.rename(trial.folder / "outcome.json")


def rewrite_states(path: Path, **changes: Any) -> None:
    """Change the state events of a journal, for example to another process on another host."""
    events = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [json.dumps(event | changes if event["event"] == "state" else event) for event in events]
    path.write_text("".join(f"{line}\n" for line in lines))


def sql(database: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database, timeout=20)) as connection:
        return connection.execute(query).fetchall()


def read_metrics(runs_dir: Path) -> list[tuple[Any, ...]]:
    return sql(runs_dir / "mlflow.db", "select key, step, value from metrics order by key, step, value")


def read_status(runs_dir: Path) -> str:
    return str(sql(runs_dir / "mlflow.db", "select status from runs")[0][0])


def read_tags(runs_dir: Path) -> dict[str, str]:
    return dict(sql(runs_dir / "mlflow.db", "select key, value from tags"))


def make_expected_metrics(steps: range) -> list[tuple[Any, ...]]:
    loss = [("train/loss_nats", step, float(step)) for step in steps]
    return loss + [("train/time_s", step, 0.5) for step in steps]


@contextmanager
def mlflow_server(
    database: Path, port: int, *options: str, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[Any]]:
    """Run `mlflow server` on an SQLite file; end its process group afterwards."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}"]
    command += ["--port", str(port), "--workers", "1", "--default-artifact-root", str(database.parent / "served")]
    command += options
    quiet = {**(env or {}), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (database.parent / "server.log").open("ab") as log:
        server = subprocess.Popen(
            command, env=os.environ | quiet, stdout=log, stderr=log, start_new_session=True, cwd=database.parent
        )
    with _until_healthy(server, database, port):
        yield server


@contextmanager
def forked_server(preloaded: Path, database: Path, port: int) -> Iterator[subprocess.Popen[Any]]:
    """As `mlflow_server`, in a fork that has done the imports; start it on a copy of an empty store."""
    command = [sys.executable, "-P", "-m", "tests.support.tracking_server", str(database), str(port)]
    Preloaded.address = str(preloaded)
    with (database.parent / "server.log").open("ab") as log:
        server = Preloaded(command, stdout=log, stderr=log, cwd=database.parent)
    with _until_healthy(server, database, port):
        yield server


@contextmanager
def _until_healthy(server: subprocess.Popen[Any], database: Path, port: int) -> Iterator[None]:
    """Wait for the server's answer; at the end, end its process group."""
    try:
        for _ in range(600):
            assert server.poll() is None, (database.parent / "server.log").read_text()
            try:
                with urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except OSError:
                time.sleep(0.2)
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
