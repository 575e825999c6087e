"""Waits for whichever comes first: a signal, the end of a child, data from another process, or a timeout."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Sequence
from types import FrameType

from experiments.launch.stop import STOP_SIGNALS


class SignalWaiter:
    """Handles the stop signals and SIGCHLD of this process; each of them ends `wait`. Make only one per process."""

    def __init__(self) -> None:
        self.stop_signal: int | None = None
        """Number of the last stop signal."""
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        os.set_blocking(self._read, False)
        for number in (*STOP_SIGNALS, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self.stop_signal = number

    def wait(self, timeout_s: float, descriptors: Sequence[int] = ()) -> list[int]:
        """Wait for a signal, for data on a descriptor, or for the timeout; return the descriptors that have data."""
        ready, _, _ = select.select([self._read, *descriptors], [], [], timeout_s)
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 4096):
                pass
        return [descriptor for descriptor in ready if descriptor != self._read]

    def release(self) -> None:
        """Restore the default handlers; call this in a forked child."""
        signal.set_wakeup_fd(-1)
        for number in (*STOP_SIGNALS, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.close(self._read)
        os.close(self._write)
