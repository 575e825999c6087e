"""Keeps the runs of a sweep in the store up to date while it runs: `python -m experiments.tracking.follow_sweep SWEEP_FOLDER`."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

from experiments.core import lock
from experiments.core.files.packages import allow_local_packages
from experiments.launch.background import start_in_background
from experiments.sweep.status.notifier import SweepNotifier
from experiments.sweep.sweep import Sweep
from experiments.tracking.sweep_sync import DAMAGE_ERRORS, SweepSync, read_tracking_config
from launchers.base import LaunchError

POLL_S, LONGEST_PAUSE_S = 2.0, 60.0
QUIET_PAUSE_S = 15.0
"""The longest pause while nothing fails and no trial runs, as in the queue of a scheduler."""
MAX_REFUSALS = 3
"""How often in a row a store may refuse in a way that no retry can change, before the end of a sweep."""
GIVE_UP_S = 600.0
"""How long to retry a failing store after the end of a sweep."""
TAKE_OVER_S = 10.0
"""How long to wait for another follower of the same sweep to end."""
NICENESS = 5
"""Workers on the same machine have priority."""


def start_follower(sweep: Sweep) -> subprocess.Popen[bytes] | None:
    """Start a follower in the background, which syncs and notifies; it outlives this process and its terminal.

    Returns:
        None if it has nothing to do, or the machine cannot start another process.
    """
    if read_tracking_config(sweep)["sync"] == "off" and not SweepNotifier(sweep).is_wanted:
        return None
    trust = [f"--trust={package}" for package in sweep.trust]
    with contextlib.suppress(OSError, LaunchError), (sweep.folder / "sync.log").open("a", encoding="utf-8") as log:
        return start_in_background("experiments.tracking.follow_sweep", [str(sweep.folder), *trust], log)
    return None


def follow(sweep: Sweep) -> int:
    """Sync until the sweep is over and in the store, or its folder is gone.

    Returns:
        1 if the store failed to the end, or refuses in a way that no retry can change.
    """
    notifier, mode = SweepNotifier(sweep), read_tracking_config(sweep)["sync"]
    if mode == "off":
        while _exists(sweep) and not notifier.check():
            time.sleep(POLL_S)
        return 0
    syncing, at_end = SweepSync(sweep), mode == "end"
    pause_s, last_failure, ended_at, refusals = POLL_S, "", None, 0
    while _exists(sweep):
        over = syncing.is_over()
        failures, points = _sync(syncing) if over or not at_end else ((), 0)
        over = over and syncing.is_over()  # `lathe resume` may have continued it meanwhile
        ended_at = (ended_at or time.monotonic()) if over else None
        notifier.check()
        if failures:
            if failures[0] != last_failure and _exists(sweep):
                print(f"StoreError: {failures[0]}", file=sys.stderr, flush=True)
            refusals = refusals + 1 if syncing.is_refused else 0
            is_late = ended_at is not None and (refusals or time.monotonic() - ended_at > GIVE_UP_S)
            if is_late or refusals == MAX_REFUSALS:
                return 1
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        elif over:
            return 0
        else:
            pause_s = POLL_S if points or syncing.is_at_work() else min(pause_s * 1.5, QUIET_PAUSE_S)
        last_failure = failures[0] if failures else ""
        time.sleep(pause_s)
    return 0


def _exists(sweep: Sweep) -> bool:
    return (sweep.folder / "sweep.yaml").is_file()


def _sync(syncing: SweepSync) -> tuple[tuple[str, ...], int]:
    """Sync once; return the failures and the number of points sent."""
    try:
        summary = syncing.sync()
    except DAMAGE_ERRORS as err:  # the folder is being removed, or another program changed it
        return (f"{type(err).__name__}: {err}",), 0
    for warning in summary.warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    return summary.failures, summary.points


def main() -> int:
    """Follow the sweep that the command line names, unless another follower does."""
    # Ctrl-C and a closed terminal are for the command that started this process; the sweep continues.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    parser = argparse.ArgumentParser(prog="python -m experiments.tracking.follow_sweep", description=__doc__)
    parser.add_argument("sweep", type=Path, metavar="SWEEP_FOLDER")
    parser.add_argument("--trust", action="append", default=[], help="packages whose code may run")
    args = parser.parse_args()
    allow_local_packages(args.trust)
    sweep = Sweep(args.sweep.resolve(), tuple(args.trust))
    if not _exists(sweep):
        print(f"{sweep.folder} is not a sweep: it has no sweep.yaml; name the folder of a sweep", file=sys.stderr)
        return 2
    with (sweep.folder / "follow.lock").open(lock.MODE, encoding="utf-8") as file:
        return follow(sweep) if _is_first(file) else 0


def _is_first(file: TextIO) -> bool:
    deadline = time.monotonic() + TAKE_OVER_S
    while True:
        try:
            lock.acquire(file, blocking=False)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        except lock.LocksUnsupportedError:  # two followers at once do no harm: the sync lock makes them take turns
            return True
        else:
            return True


if __name__ == "__main__":
    sys.exit(main())
