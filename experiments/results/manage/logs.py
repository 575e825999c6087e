"""`lathe logs` of a run or a sweep."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from pathlib import Path

from experiments.core.errors import InputError
from experiments.results.manage.facts import read_state
from experiments.results.manage.find import find_run_or_sweep, find_sweep_of
from experiments.run.state import RunState
from experiments.sweep.status.logs import choose_log, print_log, show_logs
from experiments.sweep.sweep import Sweep
from experiments.trial.trial import Trial

POLL_S = 0.3


def logs(args: Namespace) -> int:
    """Print the output of a run, or of a sweep's trials.

    Raises:
        InputError: there is no such run, sweep, trial, attempt or rank.
    """
    target = find_run_or_sweep(args.target, Path(args.runs_dir))
    if isinstance(target, Sweep):
        show_logs(target, args)
        return 0
    if args.trial is not None:
        raise InputError([f"{args.trial}: '{args.target}' is a run, not a sweep with trials; leave it out"])
    if (sweep := find_sweep_of(target)) is not None:
        args.trial = target.folder.name
        show_logs(sweep, args)
        return 0
    if args.workers:
        raise InputError([f"--workers: '{args.target}' is a run, and only a sweep has workers; leave it out"])
    state = _follow(target, args) if args.follow else read_state(target)
    if not args.follow:
        print_log(choose_log(target.folder, f"run {target.folder.name}", args)[1])
    print(f"run {target.folder.name}: {describe_state(state)}", file=sys.stderr)
    return 0


def describe_state(state: RunState) -> str:
    """The state of a run, with its attempt and the reason."""
    attempt = f"attempt {state.attempt}, " if state.attempt > 1 else ""
    return f"{attempt}{state.state}{f': {state.reason}' if state.reason else ''}"


def _follow(trial: Trial, args: Namespace) -> RunState:
    """Print what is added to the log until the attempt ends or the user presses Ctrl-C; returns the state of the run."""
    attempt, path = choose_log(trial.folder, f"run {trial.folder.name}", args)
    offset = 0
    while True:
        state = read_state(trial)  # before the log: if the run has ended, the log is complete
        if path.exists():
            with path.open(encoding="utf-8", errors="replace") as file:
                file.seek(offset)
                sys.stdout.write(file.read())
                offset = file.tell()
            sys.stdout.flush()
        if state.state not in ("new", "running") or (args.attempt is not None and state.attempt > attempt):
            return state
        if args.attempt is None and (newest := choose_log(trial.folder, "", args))[0] > attempt:
            (attempt, path), offset = newest, 0
            print(f"attempt {attempt}", file=sys.stderr)
            continue
        try:
            time.sleep(POLL_S)
        except KeyboardInterrupt:
            print(file=sys.stderr)
            return state
