"""Syncs a run while it trains, in a process of its own: `python -m experiments.tracking.follow_run RUN_FOLDER`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from experiments.core.files.packages import allow_local_packages
from experiments.run import journal
from experiments.run.folder_watch import FolderWatch
from experiments.run.state import is_process_alive
from experiments.tracking.run_sync import RunTrackers, SyncResult
from experiments.trial.trial import Trial

_POLL_S = 1.0
_LONGEST_PAUSE_S = 8.0


def follow(
    trial: Trial, attempt: int, left: threading.Event, *, trust: Sequence[str] = (), grace_s: float = 30.0,
    say: Callable[[str], None] = print,
) -> int:  # fmt: skip
    """Keep the store of a run up to date until the attempt has an outcome, or its launcher and its process are gone.

    Args:
        trial: the run to follow.
        attempt: the attempt whose outcome ends it.
        left: set when the launcher is gone, at the end of the attempt or because it died.
        trust: packages whose code a tracker, and the logged model, may include.
        grace_s: how long to retry a failing store after the end of the attempt; before it there is no limit. An error
            that no retry can mend is not retried then.
        say: called with a JSON line when the store is first reached, fails, works again, and at the end:
            run_id, experiment_id, pending (events not yet in the store), model (its MLflow URI), warning (why the model
            was not logged, or what was repaired), pages (where to look, by tracker), error (null if there is none).

    Returns:
        0 when the store has everything; 1 when retrying ended, or the folder is gone, with the reason on stderr.
    """
    run, watch = RunTrackers(trial, tuple(trust)), FolderWatch(trial.folder)
    synced, error, ended_at, pause_s = SyncResult(None, None, 0), "", None, _POLL_S

    def report() -> None:
        line: dict[str, Any] = {
            "run_id": synced.run_id,
            "experiment_id": synced.experiment_id,
            "pending": run.count_pending(),
        }
        line |= {
            "model": synced.model.uri if synced.model else None,
            "warning": synced.warning,
            "pages": dict(synced.pages),
        }
        say(json.dumps(line | {"error": error or None}))

    while True:
        if watch.is_gone(0.0 if left.is_set() else None):
            run.mark_gone()
            print(f"{trial.folder} is gone, so nothing more is copied", file=sys.stderr, flush=True)
            return 1
        # Checked before the upload, which then includes everything that was written.
        has_outcome = _has_outcome(trial, attempt)
        abandoned = left.is_set() and not has_outcome and not _is_alive(trial, attempt)
        ended = abandoned or has_outcome
        if ended and ended_at is None:
            ended_at, pause_s = time.monotonic(), _POLL_S
        result, known = run.sync(reconcile=abandoned), synced
        synced = replace(
            result, run_id=result.run_id or known.run_id, experiment_id=result.experiment_id or known.experiment_id,
            warning=result.warning or known.warning, pages={**known.pages, **result.pages},
        )  # fmt: skip
        failure, before = result.failures[0] if result.failures else None, error
        error = "" if failure is None else str(failure)
        if failure is None:
            has_news, pause_s = bool(before) or (known.run_id, known.pages) != (synced.run_id, synced.pages), _POLL_S
            if ended:
                report()
                return 0
        else:
            has_news, pause_s = not before, min(pause_s * 2, _LONGEST_PAUSE_S)
            is_permanent = all(one.is_permanent for one in result.failures)
            if ended_at is not None and (is_permanent or time.monotonic() - ended_at >= grace_s):
                report()
                print(f"StoreError: {error}", file=sys.stderr, flush=True)
                return 1
        if has_news:
            report()
        if left.is_set():
            time.sleep(min(pause_s, 2.0))
        else:
            left.wait(pause_s)


def _has_outcome(trial: Trial, attempt: int) -> bool:
    outcome = trial.outcome()
    return outcome is not None and int(outcome["attempt"]) >= attempt


def _is_alive(trial: Trial, attempt: int) -> bool:
    """Whether the process of the attempt is alive on this host; False for a process on another host."""
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
    parser.add_argument("--attempt", type=int, help="default: the newest attempt")
    parser.add_argument("--grace-s", type=float, default=30.0)
    parser.add_argument("--trust", action="append", default=[], help="packages whose code may run")
    args = parser.parse_args()
    if not (args.run / "trial.yaml").is_file():
        parser.error(f"{args.run} is not a run folder: it has no trial.yaml; name a run folder")
    # Ctrl-C and a closed terminal make the launcher end the run; the rest of the run still has to be uploaded.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    allow_local_packages(args.trust)
    trial = Trial(args.run.resolve())
    attempts = trial.attempts()
    attempt = args.attempt or (int(attempts[-1].name) if attempts else 1)
    left = threading.Event()
    threading.Thread(target=_wait_for_end, args=(left,), daemon=True).start()
    say = partial(print, flush=True)
    sys.exit(follow(trial, attempt, left, trust=args.trust, grace_s=args.grace_s, say=say))


def _wait_for_end(left: threading.Event) -> None:
    """Wait until standard input closes: the launcher closes it with the attempt, or when it dies."""
    while os.read(0, 4096):
        pass
    left.set()


if __name__ == "__main__":
    main()
