"""Syncs in processes of their own, forked from one that has imported MLflow: each import takes 5 s of a core."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.waiting import PATIENCE_S

PROGRAM = """
import json, os, signal, sys, traceback
from pathlib import Path
import mlflow.store.tracking.sqlalchemy_store
from sqlalchemy import event
from sqlalchemy.engine import Engine
from experiments.sweep.sweep import Sweep
from experiments.tracking.run_sync import sync_run
from experiments.tracking.sweep_sync import SweepSync
from experiments.trial.trial import Trial

def sync(folder, kill_at, out):
    calls = []
    def count(*_):
        calls.append(None)
        if len(calls) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    event.listen(Engine, "before_cursor_execute", count)
    event.listen(Engine, "commit", count)
    is_sweep = (folder / "sweep.yaml").exists()
    done = SweepSync(Sweep(folder)).sync() if is_sweep else sync_run(Trial(folder))
    out.write(str(done if is_sweep else done.points))
    out.close()

for jobs in json.loads(sys.argv[1]):
    children = []
    for folder, kill_at in jobs:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                sync(Path(folder), kill_at, os.fdopen(writer, "w"))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        os.close(writer)
        children.append((child, os.fdopen(reader)))
    print(json.dumps([[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), out.read()] for child, out in children]))
"""


class SyncOutcome(NamedTuple):
    """How one process ended."""

    code: int
    """Its exit code, or a negative signal number."""
    printed: str
    """The points of a run, or the summary of a sweep."""


def sync_at_once(folders: Sequence[Path]) -> list[SyncOutcome]:
    """Sync runs or sweeps at the same time, each in a process of its own."""
    return _run([[(str(folder), 0) for folder in folders]])[0]


def sync_and_kill(folder: Path, kill_at: Sequence[int]) -> list[int]:
    """Sync a run or sweep again and again; the exit code of each process.

    Args:
        folder: of the run or sweep.
        kill_at: before which statement or commit each process is killed, counted from 1.
    """
    return [outcome.code for (outcome,) in _run([[(str(folder), number)] for number in kill_at])]


def _run(rounds: list[list[tuple[str, int]]]) -> list[list[SyncOutcome]]:
    command = [sys.executable, "-c", PROGRAM, json.dumps(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    outcomes = [[SyncOutcome(*each) for each in json.loads(line)] for line in done.stdout.splitlines()]
    assert all(outcome.code <= 0 for jobs in outcomes for outcome in jobs), done.stderr
    return outcomes
