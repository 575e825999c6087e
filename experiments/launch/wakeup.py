"""Waiting for whatever comes first: a signal, the end of a child, a word from another process, or time."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Sequence
from types import FrameType

LEAVE = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Signals that ask a worker to save what it has and go; USR2 is the scheduler's word before its time is up."""


class SignalWaiter:
    """One for a process: it takes over these signals, and rings when one comes."""

    def __init__(self) -> None:
        self.asked_to_leave: int | None = None
        """Number of the signal that did."""
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        os.set_blocking(self._read, False)
        for number in (*LEAVE, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self.asked_to_leave = number

    def wait(self, timeout_s: float, also: Sequence[int] = ()) -> list[int]:
        """Wait for the bell, for one of these descriptors, or until time is up; the descriptors that have something."""
        ready, _, _ = select.select([self._read, *also], [], [], timeout_s)
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 4096):
                pass
        return [descriptor for descriptor in ready if descriptor != self._read]

    def forget(self) -> None:
        """Give the signals back, in a child."""
        signal.set_wakeup_fd(-1)
        for number in (*LEAVE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.close(self._read)
        os.close(self._write)
