"""The state of a run: from its outcome, else from its journal, else from whether its process is alive; and how to end it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.core import renamed
from experiments.core.files.field_types import Check, is_count, is_one_of, is_time, matches
from experiments.core.files.read_file import DamagedFileError, MissingFileError, read_json_map
from experiments.run.journal import FINAL_STATES

CANCEL = "cancel"
"""File in the folder of an attempt by which `lathe cancel` asks it to stop, also one on another machine."""

_OUTCOME: Mapping[str, Check] = {
    "status": is_one_of("finished", "failed", "interrupted", "killed"), "attempt": is_count, "ended": is_time,
}  # fmt: skip


@dataclass(frozen=True)
class RunState:
    """The state of a run: running, finished, failed, interrupted or killed; its attempt; and when it ended.

    A sweep's trial may also be pending, pruned or cancelled.
    """

    state: str
    attempt: int
    ended: float | None
    reason: str | None
    failure: str | None = None
    """Failure class, of `experiments.run.failure`."""


def determine_state(
    outcome: Mapping[str, Any] | None, last: Mapping[str, Any] | None, last_time: float, alive: bool
) -> RunState:
    """Determine the state of a run from its outcome, its journal and its process.

    Args:
        outcome: written by the launcher; it counts unless a later attempt has begun.
        last: the last state event of the journals.
        last_time: time of the last event of any kind.
        alive: False if the process of the last attempt has ended.
    """
    attempt = int(last["attempt"]) if last else 0
    if outcome is not None and int(outcome["attempt"]) >= attempt:
        ended, why = float(outcome["ended"]), (outcome.get("reason"), outcome.get("failure"))
        return RunState(outcome["status"], int(outcome["attempt"]), ended, *why)
    if last is None:
        return RunState("running", attempt, None, None)
    if last["state"] in FINAL_STATES:
        return RunState(last["state"], attempt, float(last["time"]), last["reason"], last.get("failure"))
    if not alive:
        return RunState("killed", attempt, last_time, f"process {last['pid']} ended without reporting an error")
    return RunState("running", attempt, None, None)


def read_outcome(run_folder: Path) -> dict[str, Any] | None:
    """What the launching side saw of the last attempt (status, attempt, reason, ended), or None while it runs.

    Raises:
        DamagedFileError: the file is damaged.
    """
    path = run_folder / "outcome.json"
    try:
        outcome = read_json_map(path)
        if isinstance(outcome.get("status"), str):
            outcome["status"] = renamed.state(outcome["status"])
        if not matches(outcome, _OUTCOME):
            raise DamagedFileError(path, "a value is missing or of the wrong type")
    except MissingFileError:
        return None
    except DamagedFileError as err:
        raise DamagedFileError(path, err.cause, "remove it; the journals of the run hold the same") from err
    return outcome


def is_process_alive(host: str, pid: int, since: float) -> bool:
    """Whether the process that wrote an event can still be alive. Always True for a process on another host."""
    if host != socket.gethostname():
        return True
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = next(
            line for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines() if line.startswith("btime")
        )
    except (FileNotFoundError, ProcessLookupError):
        return False
    started = int(boot.split()[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return fields[0] not in "ZX" and started < since + 5  # started later: another process has the same id


def request_cancel(attempt_folder: Path) -> None:
    """Ask an attempt to save and stop.

    Raises:
        OSError: its folder cannot be written.
    """
    attempt_folder.mkdir(parents=True, exist_ok=True)
    (attempt_folder / CANCEL).touch()


def is_cancel_requested(attempt_folder: Path) -> bool:
    """Whether an attempt was asked to save and stop."""
    return (attempt_folder / CANCEL).exists()
