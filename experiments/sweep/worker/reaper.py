"""Ends the attempts whose worker has gone without a word, so that their trials can be begun again."""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.run import journal
from experiments.run.failure import CANCELLED, RETRYABLE, classify_loss
from experiments.run.journal_tail import JournalTail
from experiments.run.metrics import better_of
from experiments.sweep.ledger import Entry, Ledger, State
from experiments.sweep.sweep import Sweep
from launchers.base import Executor

LOST_S = 30.0
"""Age of a heartbeat at which its worker is taken to be gone; it is touched every 5 s."""
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT)
LAST_BYTES = 4096
"""Of a worker's log, in which the scheduler says why it ended it."""


def reap(sweep: Sweep, ledger: Ledger, executor: Executor | None) -> list[str]:
    """End the attempts whose worker has gone without a word; what was seen, a line an attempt.

    Where nothing can be written it is left to whoever looks next.

    Args:
        sweep: whose.
        ledger: this process's view.
        executor: who knows of workers, asked once for all of them; None: heartbeats alone tell.
    """
    running = [entry for entry in ledger.read().entries.values() if entry.state == "running"]
    if not running:
        return []
    # Before the lock is taken: a scheduler's answer may take long.
    lost = executor.find_lost(sorted({entry.worker for entry in running})) if executor is not None else {}
    try:
        gone = _gone(sweep, running, lost)
        if not gone:
            return []
        with ledger.locked() as ledger_state:
            crowd = Counter(entry.worker for entry in running)
            return [
                line for (trial, attempt), why in gone.items()
                if (line := _end(sweep, ledger, ledger_state.entries[trial], attempt, why, crowd)) is not None
            ]  # fmt: skip
    except OSError as err:
        if err.errno not in UNWRITABLE:
            raise
        return []


def _gone(sweep: Sweep, running: Sequence[Entry], lost: Mapping[str, str]) -> dict[tuple[str, int], str]:
    """Trial and attempt of the claims that are dead, and what tells so."""
    clock = sweep.folder / "clock"
    clock.touch()  # the time of the file system, which need not be this machine's
    now, found = clock.stat().st_mtime, dict[tuple[str, int], str]()
    for entry in running:
        place = f"worker {entry.worker} on {entry.host}"
        beat = _mtime((sweep.trial(entry).folder / "attempts" / str(entry.attempt)) / "heartbeat")
        age_s = now - beat if beat is not None else min(now, time.time()) - entry.since
        if entry.worker in lost:
            found[entry.id, entry.attempt] = f"{place} is gone: {lost[entry.worker]}"
        elif age_s > LOST_S:
            found[entry.id, entry.attempt] = f"{place} has given no sign of life for {age_s:.0f} s"
    return found


def _mtime(path: Path) -> float | None:
    """Of a file that another machine touches: opening it asks the file server, a bare stat may be answered from memory."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None


def _end(sweep: Sweep, ledger: Ledger, entry: Entry, attempt: int, why: str, crowd: Mapping[str, int]) -> str | None:
    """Say that an attempt has lost its worker, and what becomes of its trial; None where it ended meanwhile."""
    folder, most, mode = sweep.folder / entry.id, sweep.spec["max_attempts"], sweep.spec["mode"]
    tail = JournalTail(folder / "attempts" / str(attempt), sweep.spec["metric"])
    tail.read()
    state: State = "pending"
    failure, then = classify_loss(f"{why}\n{_printed(sweep, entry.worker)}"), "it waits for another attempt"
    if (folder / "attempts" / str(attempt) / "cancel").exists():
        state, failure, then = "cancelled", CANCELLED, "it was to be cancelled"
    elif failure not in RETRYABLE and crowd[entry.worker] == 1:  # of several at once nobody knows whose fault it was
        state, then = "failed", "which another attempt would not mend"
    elif entry.attempts >= most:
        state, then = "failed", f"sweep.max_attempts={most} are used up"
    journal.seal(folder / "attempts" / str(attempt) / "journal.jsonl")  # an orphan may still write
    is_own = ledger.end(
        entry.id, attempt, state, value=better_of(entry.value, tail.values.best(mode), mode), step=tail.step,
        failure=failure, reason=f"{why}; {then}" if state != "pending" else why,
        wasted=not any((folder / "checkpoints").glob("step_*")),
        until=_mtime(folder / "attempts" / str(attempt) / "heartbeat"),
    )  # fmt: skip
    return f"trial {entry.id}, attempt {attempt}: {why}; {then}" if is_own else None


def _printed(sweep: Sweep, worker: str) -> str:
    """The end of a worker's log."""
    path = sweep.folder / "workers" / worker / "log.txt"
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LAST_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:  # of one on this machine, where no scheduler says anything
        return ""
