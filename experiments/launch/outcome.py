"""How an attempt ended: by its own last word, or else by the exit code of its process."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from experiments.core.atomic import write_text
from experiments.run.failure import DISK, EXCEPTION, KILLED
from experiments.run.rank_reports import RankError, log_name, root_cause
from experiments.trial.trial import Trial
from launchers.base import DISK_FULL

Status = Literal["finished", "failed", "stopped", "killed"]


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended, and the class of what went wrong where something did, of `experiments.run.failure`."""

    status: Status
    reason: str | None
    failure: str | None = None


def judge(
    trial: Trial, attempt: int, last_state: Mapping[str, Any] | None, code: int | None, failed_rank: int | None,
    *, asked_to_end: bool,
) -> Outcome:  # fmt: skip
    """Say how an attempt ended.

    Args:
        trial: whose.
        attempt: its number.
        last_state: the last state event of its journal.
        code: of the process that decides, or the negative number of the signal that ended it.
        failed_rank: of several ranks the one whose code it is.
        asked_to_end: whether a signal was sent that a process cannot answer.
    """
    folder = trial.folder / "attempts" / str(attempt)
    if last_state is not None and last_state["state"] != "running":
        return Outcome(last_state["state"], last_state["reason"], last_state.get("failure"))
    if (cause := root_cause(folder)) is not None:
        return _of_rank(cause)
    rank = "" if failed_rank is None else f"rank {failed_rank} was "
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        is_riddle = -code == signal.SIGKILL and not asked_to_end
        hint = "; if nobody sent it, memory ran out: lower batch_size_per_device" if is_riddle else ""
        return Outcome("killed", f"{rank}ended by {name}{hint}", KILLED)
    if code == DISK_FULL:
        told = f"the disk of {trial.folder} is full; free space, then `lathe resume {trial.reference}`"
        return Outcome("failed", told, DISK)
    if (noticed := root_cause(folder, follows=True)) is not None:
        return _of_rank(noticed)
    log = folder / log_name(failed_rank or 0)
    printed = f"see {log}" if log.exists() else "what it printed stands above"
    who = "the job" if failed_rank is None else f"rank {failed_rank}"
    return Outcome("failed", f"{who} ended with code {code} and left no word; {printed}", EXCEPTION)


def _of_rank(word: RankError) -> Outcome:
    return Outcome("failed", f"rank {word.rank}: {word.reason}", word.failure)


def record(trial: Trial, attempt: int, outcome: Outcome, code: int | None) -> None:
    """Write it beside the run; on a full disk the journal's own last word stands."""
    told: dict[str, Any] = {"status": outcome.status, "attempt": attempt, "reason": outcome.reason, "exit_code": code}
    told["failure"], told["ended"] = outcome.failure, time.time()
    with contextlib.suppress(OSError):
        write_text(trial.folder / "outcome.json", json.dumps(told) + "\n")
