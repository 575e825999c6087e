"""The ledger of a sweep: an append-only file of events. The state of the sweep is the replay of its ledger."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from experiments.core import lock, renamed
from experiments.core.errors import InputError
from experiments.core.files.field_types import is_map
from experiments.core.files.read_file import MissingFileError, open_regular, parse_json
from experiments.run.event_fields import LEDGER, is_valid
from experiments.run.journal import cut_torn_tail

State = Literal["pending", "running", "finished", "pruned", "failed", "cancelled"]
Event = Mapping[str, Any]
PATIENCE_S = 20.0
"""How long a process may hold the lock of a ledger; it takes milliseconds, unless it was stopped."""
MAX_WRITES = 5
ENDED: frozenset[State] = frozenset({"finished", "pruned", "failed", "cancelled"})
MAX_LISTED = 5


@dataclass
class Entry:
    """The state of one trial of a sweep."""

    id: str
    """Id of the trial, and name of its folder in the sweep's folder."""
    point: int
    """Index of the point; trials of one point differ only in their seed."""
    values: dict[str, Any]
    """The point: values by key, without the seed."""
    seed: int
    state: State = "pending"
    attempt: int = 0
    """Number of the last claimed attempt."""
    attempts: int = 0
    """Attempts since the trial was added or last retried by the user."""
    worker: str = ""
    host: str = ""
    devices: int = 0
    since: float = 0.0
    """Time of the last change of state."""
    failure: str | None = None
    """Failure class of the last attempt, see `experiments.run.failure`."""
    reason: str | None = None
    value: float | None = None
    """Best value of the sweep's metric."""
    step: int = 0
    """Steps done when the last attempt ended."""
    used_s: float = 0.0
    """Device-seconds of all ended attempts."""
    wasted_s: float = 0.0
    """Device-seconds of attempts that left no checkpoint and no result."""
    waited_s: float = 0.0
    """Seconds that the trial was pending, over all attempts."""
    reused: str | None = None
    """Folder of the finished trial whose result this one reuses."""


@dataclass
class LedgerState:
    """The state of a sweep after a replay of its events."""

    entries: dict[str, Entry] = field(default_factory=dict)
    submissions: list[dict[str, Any]] = field(default_factory=list)
    """Submitted workers: job, workers, time."""
    is_submitting: bool = False
    """Whether the last submission has no answer: its process is at it or has ended, or the scheduler did not answer."""
    opened: float = 0.0
    """Time at which the first trial was added."""
    closed: str | None = None
    """Why no more trials start; None while they may."""
    points: dict[int, list[Entry]] = field(default_factory=dict)
    """The trials of each point, in the order in which they were added."""

    def average_value(self, point: int) -> float | None:
        """The mean over a point's seeds; None until all are finished."""
        return average_value(self.points[point])

    def apply(self, event: Mapping[str, Any]) -> None:
        """Apply one event. Events of an attempt are ignored after a later attempt was claimed."""
        kind, entry = event["event"], self.entries.get(event.get("trial", ""))
        if kind == "trial" and entry is None:
            self.opened = self.opened or event["time"]
            new = Entry(event["trial"], event["point"], event["values"], event["seed"], since=event["time"])
            self.entries[new.id] = new
            self.points.setdefault(new.point, []).append(new)
            if event["reused"] is not None:
                new.state, new.value, new.reused = "finished", event["reused"]["value"], event["reused"]["folder"]
        elif kind in ("submitting", "submitted", "refused"):
            self.is_submitting = kind == "submitting"
            if kind == "submitted":
                self.submissions.append(dict(event))
        elif kind == "closed":
            self.closed = event["reason"]
        elif kind == "reopened":
            self.closed = None
        elif entry is not None:
            self._apply_to(entry, kind, event)

    def _apply_to(self, entry: Entry, kind: str, event: Mapping[str, Any]) -> None:
        if kind == "claimed" and entry.state == "pending":
            entry.waited_s += max(0.0, event["time"] - entry.since)
            entry.state, entry.attempt, entry.since = "running", event["attempt"], event["time"]
            entry.attempts += 1
            entry.worker, entry.host, entry.devices = event["worker"], event["host"], event["devices"]
            entry.failure = entry.reason = None
        elif kind == "ended" and entry.state == "running" and event["attempt"] == entry.attempt:
            spent = max(0.0, event["until"] - entry.since) * entry.devices
            entry.used_s += spent
            entry.wasted_s += spent if event["wasted"] else 0.0
            entry.state, entry.since = event["state"], event["time"]
            entry.failure, entry.reason = event["failure"], event["reason"]
            entry.value, entry.step = event["value"], max(entry.step, event["step"])
        elif kind == "cancelled" and entry.state == "pending":
            entry.state, entry.since, entry.failure = "cancelled", event["time"], "cancelled"
            entry.reason = event["reason"]
        elif kind == "again" and entry.state in ENDED - {"finished"}:
            entry.state, entry.since, entry.attempts = "pending", event["time"], 0


def average_value(entries: Sequence[Entry]) -> float | None:
    """The mean over a point's trials; None until all are finished."""
    values = [entry.value for entry in entries if entry.state == "finished" and entry.value is not None]
    return sum(values) / len(values) if len(values) == len(entries) else None


class ClaimLostError(Exception):
    """Another worker was faster."""


class Ledger:
    """One process's view of a ledger that any number of processes on any number of machines share."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: of the sweep, on a file system that all machines share.
        """
        self.folder = folder
        self.path = folder / "ledger.jsonl"
        self.state = LedgerState()
        self.damaged_lines: list[int] = []
        """Numbers of the lines that were skipped, because a crash or an editor damaged them."""
        self._offset = self._num_lines = 0
        self._is_locked = False

    def read(self) -> LedgerState:
        """Apply the new events."""
        for _ in self.read_events():
            pass
        return self.state

    def read_events(self) -> Iterator[Event]:
        """Apply the new events one by one, and yield each after that. An incomplete last line is left for the next call.

        A damaged line is skipped and listed in `damaged_lines`.

        Raises:
            DamagedFileError: the file cannot be read.
        """
        try:
            with open_regular(self.path) as file:
                file.seek(self._offset)
                lines = file.readlines()
        except MissingFileError:
            return
        for line in lines:
            if line.endswith(b"\n"):
                self._offset += len(line)
                self._num_lines += 1
                event = self._decode(line)
                if event is not None:
                    self.state.apply(event)
                    yield event

    def _decode(self, line: bytes) -> dict[str, Any] | None:
        """One event, with current names; None if its line is damaged or of a kind that only a later version knows."""
        try:
            event = parse_json(line)
        except ValueError:
            event = None
        if is_map(event) and isinstance(event.get("event"), str) and event["event"] not in LEDGER:
            return None
        if is_map(event) and isinstance(event.get("state"), str):
            event["state"] = renamed.state(event["state"])
        if not is_valid(event, LEDGER):
            self.damaged_lines.append(self._num_lines)
            return None
        if event["event"] == "trial" and renamed.OLD_KEYS & event["values"].keys():
            event["values"] = self._upgrade_values(event["values"])
        return dict(event)

    def _upgrade_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values with the current names of their keys."""
        for template in self._templates:
            if all(values.get(group) == option for group, option in template["choices"].items()):
                return renamed.upgrade_keys(values, renamed.renames(template["config"]))
        return dict(values)

    def describe_damage(self) -> str | None:
        """A warning about the lines that were skipped so far; None if there are none."""
        if not self.damaged_lines:
            return None
        numbers = ", ".join(map(str, self.damaged_lines[:MAX_LISTED])) + ", ..." * (
            len(self.damaged_lines) > MAX_LISTED
        )
        what = "1 damaged line was" if len(self.damaged_lines) == 1 else f"{len(self.damaged_lines)} damaged lines were"
        return f"{self.path}: {what} skipped (line {numbers}); the trials that they are about may run again"

    @cached_property
    def _templates(self) -> list[dict[str, Any]]:
        from experiments.sweep.templates import read_templates  # shell completion needs no rules

        return read_templates(self.folder)

    @contextmanager
    def locked(self) -> Iterator[LedgerState]:
        """Lock the ledger and read it: no other process writes while the context is open. The lock ends with its process.

        A holder that was stopped for longer than `PATIENCE_S` is passed over. So a process that comes back, or one on a file
        system whose locks do nothing, can write at the same time. The state stays right: of several claims of an attempt only
        the first in the file counts, and so does the first end of it.

        Raises:
            InputError: the file system has no locks.
        """
        try:
            with lock.locked_patiently(self.folder / "ledger.lock", PATIENCE_S):
                self._is_locked = True
                try:
                    yield self.read()
                finally:
                    self._is_locked = False
        except lock.LocksUnsupportedError as err:
            raise InputError(
                [f"runs_dir: {self.folder} is on a file system without locks ({err.strerror}); choose another runs_dir"]
            ) from err

    def add(self, trials: Iterable[Mapping[str, Any]]) -> None:
        """Add pending trials, each with `trial` (its id), `point`, `values`, `seed`, and `reused` or None."""
        self._write([{"event": "trial", **trial} for trial in trials])

    def claim(self, entry: Entry, *, worker: str, host: str, devices: int) -> int:
        """Claim a pending trial for a worker; returns the number of the attempt.

        Raises:
            ClaimLostError: another worker has claimed it at the same time.
        """
        assert entry.state == "pending", entry
        attempt = entry.attempt + 1
        fields = {"trial": entry.id, "attempt": attempt, "worker": worker, "host": host, "devices": devices}
        self._write([{"event": "claimed", **fields}])
        if (entry.worker, entry.attempt) != (worker, attempt):
            raise ClaimLostError(f"trial {entry.id} is claimed by worker {entry.worker}")
        return attempt

    def end(
        self, trial: str, attempt: int, state: State, *, value: float | None = None, step: int = 0,
        failure: str | None = None, reason: str | None = None, wasted: bool = False, until: float | None = None,
    ) -> bool:  # fmt: skip
        """Record the end of an attempt and the new state of its trial, which is ``pending`` for another attempt.

        Args:
            trial: its id.
            attempt: from `claim`.
            state: new state of the trial.
            value: of the metric at the step that the trial delivers.
            step: steps done.
            failure: failure class.
            reason: for the user.
            wasted: whether the attempt left no checkpoint and no result.
            until: when its devices became free; None: now.

        Returns:
            False if a later attempt was claimed or the trial has ended; nothing is written then.
        """
        entry = self.state.entries[trial]
        if entry.state != "running" or entry.attempt != attempt:
            return False
        fields: dict[str, Any] = {
            "state": "waiting"
            if state == "pending"
            else state,  # the name of the first version, whose workers may read it
            "value": value,
            "step": step,
            "failure": failure,
            "reason": reason,
            "wasted": wasted,
        }
        fields["until"] = time.time() if until is None else until
        self._write([{"event": "ended", "trial": trial, "attempt": attempt, **fields}])
        return True

    def cancel(self, trials: Collection[str], reason: str) -> None:
        """Cancel pending trials."""
        self._write([{"event": "cancelled", "trial": trial, "reason": reason} for trial in trials])

    def retry(self, trials: Collection[str]) -> None:
        """Make trials that ended without a result pending again."""
        self._write([{"event": "again", "trial": trial} for trial in trials])

    def record_report(self, trial: str, *, step: int, value: float, prune: bool, rungs: Mapping[str, float]) -> None:
        """Record a value of the metric that a pruner judged.

        Args:
            trial: its id.
            step: of the training.
            value: of the metric; NaN is always pruned.
            prune: the decision, which holds for all seeds of the point.
            rungs: what the pruner must know of this trial to judge others, by Optuna's attribute name.
        """
        self._write([{
            "event": "reported", "trial": trial, "step": step, "value": value, "prune": prune, "rungs": dict(rungs),
        }])  # fmt: skip

    def begin_submission(self, workers: int) -> None:
        """Record that workers are about to be submitted, so that a job whose number is lost can be found."""
        self._write([{"event": "submitting", "workers": workers}])

    def record_submission(self, job: str, workers: int) -> None:
        self._write([{"event": "submitted", "job": job, "workers": workers}])

    def record_refusal(self) -> None:
        """Record that nothing was submitted after all."""
        self._write([{"event": "refused"}])

    def close(self, reason: str) -> None:
        """Start no more trials."""
        self._write([{"event": "closed", "reason": reason}])

    def reopen(self) -> None:
        self._write([{"event": "reopened"}])

    def _write(self, events: list[dict[str, Any]]) -> None:
        """Append events with one write and fsync.

        Raises:
            OSError: the disk is full; the ledger is unchanged.
        """
        assert self._is_locked, "lock the ledger before you write to it"
        now = time.time()
        text = "".join(json.dumps({**event, "time": now}, separators=(",", ":")) + "\n" for event in events).encode()
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            for _ in range(MAX_WRITES):
                before = _append(descriptor, text)
                if text in os.pread(descriptor, os.fstat(descriptor).st_size - before, before):
                    break  # else a process that holds the lock too took it for a torn line
        finally:
            os.close(descriptor)
        self.read()


def _append(descriptor: int, text: bytes) -> int:
    """Append to a file and wait for the disk; returns its size before.

    Raises:
        OSError: the disk is full; the file is unchanged.
    """
    cut_torn_tail(descriptor)
    before = os.fstat(descriptor).st_size
    written = 0
    try:
        while written < len(text):  # on a full disk the first write is short
            written += os.write(descriptor, text[written:])
        os.fsync(descriptor)
    except OSError:
        if os.fstat(descriptor).st_size == before + written:  # else another process has written
            os.ftruncate(descriptor, before)
        raise
    return before
