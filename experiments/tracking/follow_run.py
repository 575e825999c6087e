"""Syncs a run while it trains, in a process of its own: `python -m experiments.tracking.follow_run RUN_FOLDER`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from experiments.run import journal
from experiments.run.state import is_process_alive
from experiments.tracking.run_sync import RunSync, SyncResult
from experiments.tracking.store_uri import StoreError
from experiments.trial.trial import Trial

_POLL_S = 1.0
_LONGEST_PAUSE_S = 8.0


def follow(
    trial: Trial, attempt: int, left: threading.Event, *, grace_s: float = 30.0, say: Callable[[str], None] = print
) -> int:
    """Keep a run's store up to date until the attempt has its outcome, or its launcher has left and its process is gone.

    Args:
        trial: the run to follow.
        attempt: the attempt whose outcome ends it.
        left: set when the launcher has left, at the end of the attempt or because it died.
        grace_s: how long a store that fails is asked again after the end; before it, for ever.
        say: takes a JSON line whenever the store is first reached, lost, found again, and at the end:
            run_id, experiment_id, pending (events not yet in the store), model (what MLflow loads it by), warning (why it
            was not logged), error (null where all is well).

    Returns:
        0 when the store has everything, 1 when it was given up; then a line on stderr says why.
    """
    run = RunSync(trial)
    synced, error, ended_at, pause_s = SyncResult(None, None, 0), "", None, _POLL_S

    def tell() -> None:
        line = {"run_id": synced.run_id, "experiment_id": synced.experiment_id, "pending": run.pending()}
        line |= {"model": synced.model.uri if synced.model else None, "warning": synced.warning}
        say(json.dumps(line | {"error": error or None}))

    while True:
        # Asked before the upload, which then has all that was written.
        has_outcome = _has_outcome(trial, attempt)
        abandoned = left.is_set() and not has_outcome and not _is_alive(trial, attempt)
        ended = abandoned or has_outcome
        if ended and ended_at is None:
            ended_at, pause_s = time.monotonic(), _POLL_S
        try:
            reached, known = run.round(reconcile=abandoned), synced.run_id
            news, synced, error, pause_s = bool(error) or known != reached.run_id, reached, "", _POLL_S
            if ended:
                tell()
                return 0
        except StoreError as err:
            news, error, pause_s = not error, str(err), min(pause_s * 2, _LONGEST_PAUSE_S)
            if ended_at is not None and time.monotonic() - ended_at >= grace_s:
                tell()
                print(f"StoreError: {error}", file=sys.stderr, flush=True)
                return 1
        if news:
            tell()
        if left.is_set():
            time.sleep(min(pause_s, 2.0))
        else:
            left.wait(pause_s)


def _has_outcome(trial: Trial, attempt: int) -> bool:
    outcome = trial.outcome()
    return outcome is not None and int(outcome["attempt"]) >= attempt


def _is_alive(trial: Trial, attempt: int) -> bool:
    """Whether the attempt's process can be seen at work; False for one on another host, which nobody here can end."""
    events, _ = journal.read(trial.folder / "attempts" / str(attempt) / "journal.jsonl")
    states = [event for event in events if event["event"] == "state"]
    if not states or states[-1]["state"] in journal.FINAL_STATES:
        return False
    last = states[-1]
    return last["host"] == os.uname().nodename and is_process_alive(last["host"], last["pid"], last["time"])


def main() -> NoReturn:
    """Follow the run that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m experiments.tracking.follow_run", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--attempt", type=int, help="default: the last one whose folder is there")
    parser.add_argument("--grace-s", type=float, default=30.0)
    asked = parser.parse_args()
    if not (asked.run / "trial.yaml").is_file():
        parser.error(f"{asked.run} is no run folder: it has no trial.yaml; name one")
    # Ctrl-C and a closed terminal are for the launcher, which ends the run; the rest of it still has to be uploaded.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    trial = Trial(asked.run.resolve())
    attempts = trial.attempts()
    attempt = asked.attempt or (int(attempts[-1].name) if attempts else 1)
    left = threading.Event()
    threading.Thread(target=_wait_for_end, args=(left,), daemon=True).start()
    sys.exit(follow(trial, attempt, left, grace_s=asked.grace_s, say=lambda line: print(line, flush=True)))


def _wait_for_end(left: threading.Event) -> None:
    """The launcher holds the other end of standard input: it closes with the attempt, or when the launcher dies."""
    while os.read(0, 4096):
        pass
    left.set()


if __name__ == "__main__":
    main()
