"""Notifications that a run or a sweep ended, failed or stalled: by a command of yours, or by a message to a webhook."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Thread
from typing import Any
from urllib.error import HTTPError

from experiments.core.format import format_number, to_json
from experiments.core.secrets import resolve
from experiments.run.journal import Journal
from experiments.run.metrics import DELIVERED
from experiments.trial.trial import Trial

TIMEOUT_S = 20.0
"""How long a command or a webhook may take."""
SHOWN = ("test/", f"{DELIVERED}val/")
"""Prefixes of the metrics in a message."""
EVENTS: Mapping[str, str] = {"finished": "end", "failed": "failure", "killed": "failure"}
"""What is notified of, by the status of a run; an interrupted one was stopped by its user."""


class NotifyError(Exception):
    """A notification could not be sent; the message has no secret."""


@dataclass
class Notifier:
    """Sends the notifications of one attempt. Nothing that goes wrong here reaches the run: it is shown and recorded."""

    trial: Trial
    attempt: int
    settings: Mapping[str, Any]
    """`notify` of the configuration; empty for a run of an earlier version."""
    say: Callable[[str], None]
    """Shows a line to the user."""
    _sent: list[tuple[str, str, str | None]] = field(default_factory=list)
    _stalled_at: float | None = None

    def check_stall(self, progress_at: float) -> None:
        """Notify once of each stall, without waiting for it.

        Args:
            progress_at: `time.monotonic` of the last progress.
        """
        limit_s = 60 * float(self.settings.get("stall_min", 0) or 0)
        if not limit_s or progress_at == self._stalled_at or time.monotonic() - progress_at < limit_s:
            return
        self._stalled_at = progress_at
        reason = f"no progress for {limit_s / 60:g} min"
        Thread(target=self.send, args=("stall", "running", reason, {}), daemon=True).start()

    def send(self, event: str, state: str, reason: str | None, metrics: Mapping[str, float]) -> None:
        """Notify, if the settings name this event.

        Args:
            event: end, failure or stall.
            state: of the run.
            reason: of a failure or a stall.
            metrics: the last values, by name.
        """
        if event not in self.settings.get("events", ()):
            return
        for channel, error in deliver(self.settings, self._describe(event, state, reason, metrics)):
            self._sent.append((event, channel, error))
            if error is not None:
                self.say(f"warning: notify.{channel} failed ({error}); the run is not affected")

    def record(self) -> None:
        """Write what was sent to the journal of the attempt. Its process must have ended, as one process writes a journal."""
        path = self.trial.folder / "attempts" / str(self.attempt) / "journal.jsonl"
        if not self._sent or not path.exists():
            return
        try:
            with Journal(path) as journal:
                for event, channel, error in self._sent:
                    journal.notification(event, channel, error)
        except OSError as err:
            self.say(f"warning: the notifications are not in the journal ({err.strerror})")

    def _describe(self, event: str, state: str, reason: str | None, metrics: Mapping[str, float]) -> dict[str, Any]:
        name, values = str(self.trial.config["name"]), {key: metrics[key] for key in metrics if key.startswith(SHOWN)}
        shown = [f"{key} {format_number(value)}" for key, value in sorted(values.items())]
        why = " ".join((reason or "").split())
        text = f"{name} ({self.trial.folder.name}): " + ("stalled" if event == "stall" else state)
        text += f", {why}" if why else ""
        return {
            "text": " ".join([f"{text}.", ", ".join(shown)]).rstrip(), "event": event, "state": state, "reason": why,
            "run": self.trial.folder.name, "name": name, "folder": str(self.trial.folder), "metrics": values,
        }  # fmt: skip


def deliver(settings: Mapping[str, Any], message: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Send a message by the command and the webhook of the settings; yield each of them with its error or None."""
    for channel, send in (("command", _run), ("webhook", _post)):
        if not settings.get(channel):
            continue
        error = None
        try:
            send(resolve(settings[channel]), message)
        except KeyboardInterrupt:
            error = "interrupted"
        except Exception as err:  # any error of a user's command or of HTTP: the run must not end by it
            error = _describe_error(err)
        yield channel, error


def _run(command: str, message: Mapping[str, Any]) -> None:
    """Run a command in a shell, with the message in its environment and as JSON in its standard input.

    Raises:
        NotifyError: it failed, or took too long.
    """
    variables = {f"LATHE_NOTIFY_{key.upper()}": str(message[key]) for key in message if key != "metrics"}
    process = subprocess.Popen(
        ["/bin/sh", "-c", command], env=os.environ | variables, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        process.communicate(to_json(message).encode(), timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as err:
        raise NotifyError(f"it did not end within {TIMEOUT_S:.0f} s") from err
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        raise NotifyError(f"exit code {process.returncode}")


def _post(address: str, message: Mapping[str, Any]) -> None:
    """Send the message as JSON.

    Raises:
        NotifyError: it is no web address.
        OSError: the server did not take it.
    """
    if not address.startswith(("https://", "http://")):
        raise NotifyError("the address does not begin with https:// or http://")
    request = urllib.request.Request(
        address, to_json(message).encode(), {"Content-Type": "application/json", "User-Agent": "lathe"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S):
        pass


def _describe_error(err: Exception) -> str:
    """Describe an error without the address of a webhook, which is a secret."""
    if isinstance(err, HTTPError):
        return f"the server answered {err.code}"
    if isinstance(err, KeyError):
        return f"the environment variable {err.args[0]} is not set"
    if isinstance(err, NotifyError):
        return str(err)
    reason = getattr(err, "reason", err)
    return getattr(reason, "strerror", None) or type(err).__name__
