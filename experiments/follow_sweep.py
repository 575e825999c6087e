"""Keeps a sweep's runs in the store up to date while it goes on: `python -m experiments.follow_sweep SWEEP_FOLDER`."""

from __future__ import annotations

import contextlib
import fcntl
import signal
import subprocess
import sys
import time
from pathlib import Path

from experiments.store import StoreError
from experiments.sweep import Sweep

POLL_S, LONGEST_PAUSE_S = 2.0, 60.0
GIVE_UP_S = 600.0
"""How long a store that fails is asked again after the end of a sweep."""


def start(sweep: Sweep) -> subprocess.Popen[bytes] | None:
    """Start it in the background; None where the sweep is not tracked live, or the machine has no room."""
    if sweep.config["tracking"]["sync"] == "off":
        return None
    with contextlib.suppress(OSError), (sweep.folder / "sync.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "experiments.follow_sweep", str(sweep.folder)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    return None


def follow(sweep: Sweep) -> int:
    """Sync until the sweep is over and all of it is in the store, or its folder is gone; 1 where the store was given up."""
    from experiments.sync_sweep import SweepSync

    syncing, pause_s, ended_at = SweepSync(sweep), POLL_S, None
    at_end = sweep.config["tracking"]["sync"] == "end"
    while sweep.folder.is_dir():
        standing = sweep.ledger().look()
        states = {entry.state for entry in standing.entries.values()}
        is_over = "running" not in states and (standing.closed is not None or "waiting" not in states)
        try:
            if is_over or not at_end:
                syncing.round()
            pause_s = POLL_S
            if is_over:
                return 0
        except StoreError as err:
            print(f"StoreError: {err}", file=sys.stderr, flush=True)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            ended_at = ended_at or (time.monotonic() if is_over else None)
            if ended_at is not None and time.monotonic() - ended_at > GIVE_UP_S:
                return 1
        time.sleep(pause_s)
    return 0


def main() -> int:
    """Follow the sweep that the command line names, unless somebody does already."""
    for number in (signal.SIGINT, signal.SIGHUP):  # of the terminal, which may close
        signal.signal(number, signal.SIG_IGN)
    sweep = Sweep(Path(sys.argv[1]))
    with (sweep.folder / "follow.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return 0
        return follow(sweep)


if __name__ == "__main__":
    sys.exit(main())
