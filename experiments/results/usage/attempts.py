"""When each attempt of a run held how many devices, from its journals."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from experiments.run import evaluations, journal
from experiments.run.state import is_process_alive, read_outcome
from experiments.trial.trial import Trial

TAIL_BYTES = 1 << 16
"""How much of the end of a journal is read; a line has a few hundred bytes."""


@dataclass(frozen=True)
class AttemptUsage:
    """One attempt: from its first event to its last sign of life, in seconds since 1970."""

    started: float
    ended: float
    num_devices: int
    """Devices times nodes. Parameter servers are not counted."""
    user: str


def read_usage(run_folder: Path) -> Iterator[AttemptUsage]:
    """The attempts of a run and of its evaluations.

    The last sign of life of an attempt that was killed is its last event, or the last heartbeat of its worker. A process that
    runs on this machine is counted up to now. An attempt that a longer run has copied from another run is not counted twice.

    Raises:
        DamagedFileError: a file of the run is damaged.
    """
    for folder in (run_folder, *evaluations.list_folders(run_folder)):
        trial = Trial(folder)
        if not (folder / "trial.yaml").is_file():  # an evaluation that was killed while it was made
            continue
        copied_until = float(trial.provenance.get("created") or 0.0) if trial.provenance.get("continues") else 0.0
        for attempt in trial.attempts():
            usage = _read_attempt(trial, attempt)
            if usage is not None and usage.started >= copied_until:
                yield usage


def _read_attempt(trial: Trial, folder: Path) -> AttemptUsage | None:
    path, number = folder / "journal.jsonl", int(folder.name)
    first, _ = journal.read(path, max_bytes=1)
    if not first:
        return None
    events, _ = journal.read(path, max(0, path.stat().st_size - TAIL_BYTES))
    ended = max((event["time"] for event in events), default=first[0]["time"])
    states = [event for event in (*first, *events) if event["event"] == "state"]
    last = states[-1] if states else None
    if last is None or last["state"] not in journal.FINAL_STATES:
        with suppress(FileNotFoundError):
            ended = max(ended, (folder / "heartbeat").stat().st_mtime)
        outcome = read_outcome(trial.folder)
        if outcome is not None and int(outcome["attempt"]) == number:
            ended = max(ended, float(outcome["ended"]))
        elif last is not None and _is_alive_here(last):
            ended = max(ended, time.time())
    hardware = trial.read_attempt_config(number).get("hardware") or {}
    devices = int(hardware.get("nodes") or 1) * int(hardware.get("devices_per_node") or 1)
    return AttemptUsage(first[0]["time"], ended, devices, _find_owner(folder))


def _is_alive_here(last: journal.StateEvent) -> bool:
    is_here = last["host"] == os.uname().nodename
    return is_here and is_process_alive(last["host"], last["pid"], last["time"])


def _find_owner(folder: Path) -> str:
    """The user who started an attempt: the owner of its folder."""
    owner = folder.stat().st_uid
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:  # a user without a name, as in containers
        return str(owner)
