"""One attempt at a trial, in its own process: `python -m experiments.launch.training_process`, told by a line on stdin."""

from __future__ import annotations

import faulthandler
import importlib
import io
import json
import os
import shutil
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.config.allowlist import find_here
from experiments.launch.async_supervisor import is_supervised, keep
from experiments.launch.stop import StopSignal
from experiments.run.journal import Journal
from experiments.run.lock import lock_run
from experiments.run.rank_reports import log_name
from experiments.trial.trial import Trial
from launchers.base import DONE, FAILED

if TYPE_CHECKING:
    from modules.parallel.base import Rank


def _log_to(path: Path) -> None:
    """Send all that this process prints to a file, each line at once, and a crash's traceback too."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    faulthandler.enable()


def main() -> int:
    """Wait for an assignment and run it; an end of input instead of a line means that there is none."""
    stop = StopSignal()
    try:
        # What takes seconds is imported before the assignment is read, while the launching side still composes it.
        importlib.import_module("experiments.train.attempt")
        from modules.parallel.base import Rank
    except ImportError as err:
        print(f"ImportError: training cannot begin: {err}; `python -c 'import torch'` tells more", file=sys.stderr)
        return FAILED
    with open(0, "rb", buffering=0, closefd=False) as stdin:  # unbuffered: the watching thread reads on from here
        line = stdin.readline()
    if not line:
        return DONE
    stop.watch_launcher()
    order = json.loads(line)
    trial, rank = Trial(Path(order["folder"])), Rank(**order["rank"])
    code = run_attempt(trial, int(order["attempt"]), tuple(order["trust"]), rank, stop)
    if rank.meeting:
        if rank.number == 0 and rank.meeting.startswith("file://"):  # the launching side may be gone
            shutil.rmtree(Path(rank.meeting.removeprefix("file://")).parent, ignore_errors=True)
        # The threads of a process group may still run, and abort a process that takes itself down step by step.
        sys.stdout.flush()
        os._exit(code)
    return code


def run_attempt(trial: Trial, number: int, trust: tuple[str, ...], rank: Rank, stop: StopSignal) -> int:
    """Hold the run and do one rank's part of an attempt; what this process prints goes to the attempt's folder.

    Returns:
        The exit code of the job.
    """
    from experiments.train.attempt import execute

    folder = trial.folder / "attempts" / str(number)
    with lock_run(trial.folder):
        if trial.attempts()[-1] != folder:  # the launching side died, and another began before this one held the run
            return FAILED
        _log_to(folder / log_name(rank.number))
        find_here(trust)
        if is_supervised(trial.config_of(number)):
            return keep(trial, number, trust, rank, stop)
        with Journal(folder / "journal.jsonl" if rank.number == 0 else Path(os.devnull)) as journal:
            try:
                return execute(trial, number, trust, rank, journal, stop)
            except BaseException:  # a part that calls sys.exit; without other ranks Python ends as it will
                if not rank.meeting:
                    raise
                traceback.print_exc()
                return FAILED


if __name__ == "__main__":
    sys.exit(main())
