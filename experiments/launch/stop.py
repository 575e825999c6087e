"""Signals that ask a training to save and stop."""

from __future__ import annotations

import os
import signal
import threading

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""USR2 comes from the scheduler before the time limit, and reaches every process of a job."""


class StopSignal:
    """Why the training should stop after the current step: a signal came, or the launching process has ended."""

    def __init__(self) -> None:
        self.reason: str | None = None
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        # The launching side starts this process with the signals blocked, so an early signal waits until here.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def __call__(self) -> str | None:
        return self.reason

    def watch_launcher(self) -> None:
        """From now on the end of standard input is a reason to stop."""
        threading.Thread(target=self._watch_launcher, daemon=True).start()

    def _on_signal(self, number: int, frame: object) -> None:
        self.reason = signal.Signals(number).name

    def _watch_launcher(self) -> None:
        while os.read(0, 4096):
            pass
        self.reason = self.reason or "the launching process has ended"
