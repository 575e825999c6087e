"""Ends the attempts of lost workers, so that their trials can run again."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.run import journal
from experiments.run.failure import CANCELLED, RETRYABLE, classify_loss
from experiments.run.journal_tail import JournalTail
from experiments.run.state import is_cancel_requested
from experiments.sweep.ledger import Entry, Ledger, State
from experiments.sweep.sweep import Sweep
from launchers.base import Executor

LOST_S = 30.0
"""Age of a heartbeat at which its worker is considered lost; workers touch it every 5 s."""
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT)
MAX_LOG_BYTES = 4096
"""How much of a worker's log is searched for the scheduler's reason."""


def reap(sweep: Sweep, ledger: Ledger, executor: Executor | None) -> list[str]:
    """End the attempts of lost workers; returns one line for each.

    If the disk cannot be written, nothing changes and a later call tries again.

    Args:
        sweep: the sweep to check.
        ledger: this process's view of its ledger.
        executor: reports lost workers, with one query for all; None: only heartbeats are checked.
    """
    running = [entry for entry in ledger.read().entries.values() if entry.state == "running"]
    if not running:
        return []
    # Before taking the lock: the scheduler may be slow.
    lost_workers = executor.find_lost(sorted({entry.worker for entry in running})) if executor is not None else {}
    try:
        lost_attempts = _find_lost(sweep, running, lost_workers)
        if not lost_attempts:
            return []
        with ledger.locked() as ledger_state:
            num_trials = Counter(entry.worker for entry in running)
            return [
                line for (trial, attempt), reason in lost_attempts.items()
                if (line := _end_attempt(sweep, ledger, ledger_state.entries[trial], attempt, reason, num_trials)) is not None
            ]  # fmt: skip
    except OSError as err:
        if err.errno not in UNWRITABLE:
            raise
        return []


def _find_lost(sweep: Sweep, running: Sequence[Entry], lost_workers: Mapping[str, str]) -> dict[tuple[str, int], str]:
    """Lost attempts by trial and number, with the reason."""
    clock = sweep.folder / "clock"
    clock.touch()  # the file system's time, which may differ from this machine's
    now, lost_attempts = clock.stat().st_mtime, dict[tuple[str, int], str]()
    for entry in running:
        worker = f"worker {entry.worker} on {entry.host}"
        heartbeat = _mtime((sweep.trial(entry).folder / "attempts" / str(entry.attempt)) / "heartbeat")
        age_s = now - heartbeat if heartbeat is not None else min(now, time.time()) - entry.since
        if age_s < -LOST_S:  # the clock of the file server was set back; a worker that lives soon sends another one
            with contextlib.suppress(OSError):
                os.utime(sweep.trial(entry).folder / "attempts" / str(entry.attempt) / "heartbeat")
        if entry.worker in lost_workers:
            lost_attempts[entry.id, entry.attempt] = f"{worker} is lost: {lost_workers[entry.worker]}"
        elif age_s > LOST_S:
            is_gone = not (sweep.folder / entry.id).is_dir()
            what = "is lost, and so is the trial's folder" if is_gone else f"has sent no heartbeat for {age_s:.0f} s"
            lost_attempts[entry.id, entry.attempt] = f"{worker} {what}"
    return lost_attempts


def _mtime(path: Path) -> float | None:
    """Modification time of a file of another machine. Opening it asks the file server; stat alone may use a cache."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None


def _end_attempt(
    sweep: Sweep, ledger: Ledger, entry: Entry, attempt: int, reason: str, num_trials: Mapping[str, int]
) -> str | None:
    """Record a lost attempt and the new state of its trial; None if the attempt has ended meanwhile.

    Args:
        num_trials: how many trials each worker was running.
    """
    folder, max_attempts, mode = sweep.folder / entry.id, sweep.spec["max_attempts"], sweep.spec["mode"]
    tail = JournalTail(folder / "attempts" / str(attempt), sweep.spec["metric"])
    tail.read()
    state: State = "pending"
    failure, then = classify_loss(f"{reason}\n{_read_log_tail(sweep, entry.worker)}"), "the trial is pending again"
    if is_cancel_requested(folder / "attempts" / str(attempt)):
        state, failure, then = "cancelled", CANCELLED, "the trial is cancelled, as requested"
    elif (
        failure not in RETRYABLE and num_trials[entry.worker] == 1
    ):  # with several trials on a worker, the cause is unclear
        state, then = "failed", "another attempt would fail in the same way"
    elif entry.attempts >= max_attempts:
        state, then = "failed", f"no attempt is left (sweep.max_attempts={max_attempts})"
    journal.seal(folder / "attempts" / str(attempt) / "journal.jsonl")  # an orphaned process may still write
    is_own = ledger.end(
        entry.id, attempt, state, value=tail.delivered_value(mode), step=tail.step,
        failure=failure, reason=f"{reason}; {then}" if state != "pending" else reason,
        wasted=not any((folder / "checkpoints").glob("step_*")),
        until=_mtime(folder / "attempts" / str(attempt) / "heartbeat"),
    )  # fmt: skip
    return f"trial {entry.id}, attempt {attempt}: {reason}; {then}" if is_own else None


def _read_log_tail(sweep: Sweep, worker: str) -> str:
    """The end of a worker's log."""
    path = sweep.folder / "workers" / worker / "log.txt"
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - MAX_LOG_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:  # a local worker, which has no scheduler
        return ""
