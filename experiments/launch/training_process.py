"""Runs one rank of an attempt in its own process: `python -m experiments.launch.training_process`.

The launcher sends the assignment as one line of JSON on standard input.
"""

from __future__ import annotations

import faulthandler
import importlib
import io
import json
import os
import shutil
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.core.errors import InputError
from experiments.core.files.packages import allow_local_packages, import_name
from experiments.launch.async_supervisor import is_supervised, run_supervisor
from experiments.launch.no_terminal import refuse_terminal
from experiments.launch.stop import StopSignal, get_stop_timeout_s
from experiments.run.folder_watch import lacks_file_of
from experiments.run.history import read_last_step
from experiments.run.journal import Journal
from experiments.run.lock import lock_run
from experiments.run.rank_reports import log_name
from experiments.trial.trial import Trial
from launchers.base import DONE, FAILED, JOURNAL_LOST

if TYPE_CHECKING:
    from modules.parallel.base import Rank


def _log_to(path: Path) -> None:
    """Send the output of this process to a file, line by line, also the traceback of a crash."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    faulthandler.enable()


def _take_stdin() -> int:
    """Return a descriptor of the standard input, which is empty from now on: user code must not read the launcher's pipe."""
    descriptor, empty = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return descriptor


def main() -> int:
    """Wait for an assignment and run it; exit without error if standard input ends first."""
    stop = StopSignal()
    try:
        # These imports take seconds. They run while the launching side still composes the configuration.
        importlib.import_module(import_name("experiments.train.attempt"))
        from modules.parallel.base import Rank
    except ImportError as err:
        print(
            f"ImportError: training cannot start: {err}; run `python -c 'import torch'` for the traceback",
            file=sys.stderr,
        )
        return FAILED
    with open(0, "rb", buffering=0, closefd=False) as stdin:  # unbuffered: the watching thread reads the rest
        line = stdin.readline()
    if not line:
        return DONE
    stop.watch_launcher(_take_stdin())
    assignment = json.loads(line)
    trial, rank = Trial(Path(assignment["folder"])), Rank(**assignment["rank"])
    code = run_rank(trial, int(assignment["attempt"]), tuple(assignment["trust"]), rank, stop)
    if rank.rendezvous:
        if rank.number == 0 and rank.rendezvous.startswith("file://"):  # the launching side may have ended
            shutil.rmtree(Path(rank.rendezvous.removeprefix("file://")).parent, ignore_errors=True)
        # Threads of a process group may still run, and would abort a regular shutdown.
        sys.stdout.flush()
        os._exit(code)
    return code


def run_rank(trial: Trial, attempt: int, trust: tuple[str, ...], rank: Rank, stop: StopSignal) -> int:
    """Lock the run and run one rank of an attempt; the output of this process goes to the attempt's folder.

    Returns:
        The exit code of the process.
    """
    try:
        return _run_locked(trial, attempt, trust, rank, stop)
    except FileNotFoundError as err:
        if not lacks_file_of(trial.folder, err):
            raise
        print(f"{type(err).__name__}: {err}; the run folder was removed or renamed", file=sys.stderr)
        return JOURNAL_LOST


def _run_locked(trial: Trial, attempt: int, trust: tuple[str, ...], rank: Rank, stop: StopSignal) -> int:
    from experiments.train.attempt import run_attempt

    folder, config = trial.folder / "attempts" / str(attempt), _read_config(trial, attempt)
    refuse_terminal()
    with lock_run(trial.folder):
        if not folder.is_dir():
            return JOURNAL_LOST
        if trial.attempts()[-1:] != [folder]:  # the launching side died, and another attempt started before this lock
            return FAILED
        _log_to(folder / log_name(rank.number))
        if rank.number == 0:
            stop.on_limit = partial(_report_limit, folder, attempt)
        stop.timeout_s = get_stop_timeout_s(config)
        allow_local_packages(trust)
        if config and is_supervised(config):
            return run_supervisor(trial, attempt, trust, rank, stop)
        with Journal(folder / "journal.jsonl" if rank.number == 0 else Path(os.devnull)) as journal:
            try:
                return run_attempt(trial, attempt, trust, rank, journal, stop)
            except BaseException:  # also for sys.exit in user code; a single rank lets Python end normally
                if not rank.rendezvous:
                    raise
                traceback.print_exc()
                return FAILED


def _read_config(trial: Trial, attempt: int) -> dict[str, Any]:
    try:
        return trial.read_attempt_config(attempt)
    except InputError:  # a damaged file: `run_attempt` reads it again, and reports it in the journal
        return {}


def _report_limit(folder: Path, attempt: int, reason: str) -> None:
    """Log that the training was ended; its own journal may be in use by the thread that hangs."""
    step = read_last_step(folder / "journal.jsonl")
    with Journal(folder / "journal.jsonl") as journal:
        journal.state("interrupted", step=step, attempt=attempt, reason=reason)


if __name__ == "__main__":
    sys.exit(main())
