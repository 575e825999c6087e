"""Determines how an attempt ended: from its own report, or from the exit code of its process."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.core.atomic import write_text
from experiments.run.failure import DATA_LOST, DISK, EXCEPTION, KILLED
from experiments.run.rank_reports import RankError, log_name, root_cause
from experiments.trial.trial import Trial
from launchers.base import DISK_FULL, DONE, JOURNAL_LOST

Status = Literal["finished", "failed", "interrupted", "killed"]


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended; `failure` is a class of `experiments.run.failure`."""

    status: Status
    reason: str | None
    failure: str | None = None


def determine_outcome(
    trial: Trial, attempt: int, last_state: Mapping[str, Any] | None, code: int | None, failed_rank: int | None,
    *, was_killed_by_us: bool,
) -> Outcome:  # fmt: skip
    """Determine how an attempt ended.

    Args:
        trial: to which the attempt belongs.
        attempt: its number.
        last_state: the last state event in the journal.
        code: exit code of the rank that decides, or the negative number of the signal that ended it.
        failed_rank: the rank with this exit code; None for a single rank.
        was_killed_by_us: whether the launching side sent SIGKILL.
    """
    folder = trial.folder / "attempts" / str(attempt)
    if (loss := _find_loss(folder, last_state, code)) is not None:
        return Outcome("failed", loss, DATA_LOST)
    if last_state is not None and last_state["state"] != "running":
        return Outcome(last_state["state"], last_state["reason"], last_state.get("failure"))
    if (cause := root_cause(folder)) is not None:
        return _from_rank_error(cause)
    rank = "" if failed_rank is None else f"rank {failed_rank} was "
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        is_unexplained = -code == signal.SIGKILL and not was_killed_by_us
        hint = "; if you did not send it, memory ran out: lower batch_size_per_device" if is_unexplained else ""
        return Outcome("killed", f"{rank}ended by {name}{hint}", KILLED)
    if code == DISK_FULL:
        message = f"the disk of {trial.folder} is full; free space, then `lathe resume {trial.reference}`"
        return Outcome("failed", message, DISK)
    if (secondary := root_cause(folder, follows=True)) is not None:
        return _from_rank_error(secondary)
    log = folder / log_name(failed_rank or 0)
    hint = f"see {log}" if log.exists() else "see its output above"
    process = "the training process" if failed_rank is None else f"rank {failed_rank}"
    return Outcome("failed", f"{process} ended with code {code} and reported no error; {hint}", EXCEPTION)


def _find_loss(folder: Path, last_state: Mapping[str, Any] | None, code: int | None) -> str | None:
    """Return why the record of an attempt is lost, so that nothing that it reported counts; None if it is not."""
    again = "`lathe resume` runs it from the start"
    if not folder.is_dir():
        return f"its folder is gone ({folder} was removed or renamed while it ran); {again}, or rename it back first"
    journal = folder / "journal.jsonl"
    # A process that ends before its first line has no journal either, but never with these codes.
    if not journal.exists() and (last_state is not None or code in (DONE, JOURNAL_LOST)):
        return f"its journal is gone ({journal} was removed while it ran); {again}"
    return f"its journal has lost lines ({journal} was cut off while it ran); {again}" if code == JOURNAL_LOST else None


def _from_rank_error(error: RankError) -> Outcome:
    return Outcome("failed", f"rank {error.rank}: {error.reason}", error.failure)


def write_outcome(trial: Trial, attempt: int, outcome: Outcome, code: int | None) -> None:
    """Write `outcome.json`. On a full disk this does nothing; the journal still holds the last state."""
    content: dict[str, Any] = {
        "status": outcome.status,
        "attempt": attempt,
        "reason": outcome.reason,
        "exit_code": code,
    }
    content["failure"], content["ended"] = outcome.failure, time.time()
    with contextlib.suppress(OSError):
        write_text(trial.folder / "outcome.json", json.dumps(content) + "\n")
