"""Notifies once that a sweep ended, failed or stalled; its trials send nothing."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from experiments.core.atomic import write_text
from experiments.core.files.read_file import DamagedFileError, read_json_map
from experiments.core.format import to_json
from experiments.launch.notify import deliver
from experiments.run.metrics import delivered_name
from experiments.sweep.status.progress import Progress, ProgressReader, has_workers
from experiments.sweep.status.text import format_progress
from experiments.sweep.sweep import Sweep
from experiments.sweep.templates import read_templates
from launchers.base import LaunchError

FILE = "notified.json"
"""In the folder of the sweep: the last message about its end, so that no other process sends it again."""
EVENTS = {"done": "end", "spent": "end", "failed": "failure"}
"""What is notified of, by the state of a sweep; a cancelled one was stopped by its user."""


@dataclass
class SweepNotifier:
    """Sends the notifications of one sweep. Nothing that goes wrong here reaches the sweep."""

    sweep: Sweep
    _seen: tuple[object, ...] = ()
    _seen_at: float = 0.0
    _has_stalled: bool = False

    @cached_property
    def settings(self) -> dict[str, Any]:
        """`notify` of its configuration."""
        settings: dict[str, Any] = read_templates(self.sweep.folder)[0]["config"].get("notify") or {}
        return settings

    @property
    def is_wanted(self) -> bool:
        return bool(self.settings.get("command") or self.settings.get("webhook"))

    @cached_property
    def _reader(self) -> ProgressReader:
        return ProgressReader(self.sweep, self.sweep.ledger())

    def check(self) -> bool:
        """Notify if there is something new; returns whether the sweep is over, or no notification is wanted."""
        try:
            return not self.is_wanted or self._check()
        except (DamagedFileError, LaunchError, OSError):  # its folder is being removed, or a scheduler does not answer
            return False

    def _check(self) -> bool:
        progress = self._reader.read()
        if not progress.is_over:
            self._check_stall(progress)
            return False
        end = f"{progress.state} {max((row.since for row in progress.rows), default=0.0)}"
        if (event := EVENTS.get(progress.state)) is not None and self._read_last() != end:
            write_text(self.sweep.folder / FILE, to_json({"end": end}))  # first: two messages are worse than none
            self._send(event, progress, progress.closed or "")
        return True

    def _read_last(self) -> object:
        with suppress(DamagedFileError):
            return read_json_map(self.sweep.folder / FILE).get("end")
        return None

    def _check_stall(self, progress: Progress) -> None:
        """Notify once of each stall: nothing has changed for some time, and no worker waits in a queue."""
        now, seen = time.monotonic(), (progress.counts, [row.step for row in progress.rows])
        if seen != self._seen:
            self._seen, self._seen_at, self._has_stalled = seen, now, False
        limit_s = 60 * float(self.settings.get("stall_min", 0) or 0)
        if self._has_stalled or not limit_s or now - self._seen_at < limit_s:
            return
        executor = self.sweep.observer()
        is_left = executor is None or has_workers(self.sweep, self._reader.ledger, executor)
        self._seen_at = now  # if a worker is in the queue, look again later
        if progress.counts["running"] or not is_left:
            self._has_stalled = True
            self._send(
                "stall", progress, f"no progress for {limit_s / 60:g} min" + "; no worker is left" * (not is_left)
            )

    def _send(self, event: str, progress: Progress, reason: str) -> None:
        if event not in self.settings.get("events", ()):
            return
        state = "stalled" if event == "stall" else progress.state
        text = f"sweep {progress.name}: {state}" + (f", {reason}" if reason else "") + f". {format_progress(progress)}"
        best = {} if progress.best is None else {delivered_name(progress.metric): progress.best.value}
        message = {
            "text": text, "event": event, "state": progress.state, "reason": reason, "sweep": progress.name,
            "name": progress.name, "folder": progress.folder, "metrics": best,
        }  # fmt: skip
        for channel, error in deliver(self.settings, message):
            if error is not None:
                print(f"warning: notify.{channel} failed ({error})", file=sys.stderr, flush=True)
