"""Signals that ask a training to save and stop, and the limit after which it is ended, whatever its code does."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from launchers.processes.cleanup import kill_tree

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""USR2 comes from the scheduler before the time limit, and reaches every process of a job."""
STOP_LIMIT_S = 23.0
"""How long a training may take to save and stop. A process then ends itself, with a traceback of every thread in its log."""
KILL_AFTER_S = STOP_LIMIT_S + 2.0
"""When the launching side kills a training that has not ended itself, because its code never gives up Python's lock."""
TOO_SLOW = "so its processes were ended; it continues from its last checkpoint"


class StopSignal:
    """Why the training should stop after the current step: a signal came, or the launching process has ended.

    Attributes:
        on_limit: called with the reason, from another thread, just before the process ends itself.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.on_limit: Callable[[str], None] = lambda reason: None
        # Python calls a handler between two instructions of the main thread, so not while that hangs in a call. The number
        # of the signal is in the pipe at once.
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=_leave_pipe_to_parent)
        threading.Thread(target=self._watch_signals, args=(read,), daemon=True).start()
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

    def _watch_signals(self, descriptor: int) -> None:
        while numbers := os.read(descriptor, 4096):
            if found := [number for number in numbers if number in STOP_SIGNALS]:
                self._end_at_limit(signal.Signals(found[0]).name)

    def _watch_launcher(self) -> None:
        while os.read(0, 4096):
            pass
        self.reason = self.reason or "the launching process has ended"
        self._end_at_limit(self.reason)

    def _end_at_limit(self, reason: str) -> None:
        """End this process and all that it has started; if the training stops in time, this thread ends with the process."""
        time.sleep(STOP_LIMIT_S)
        with contextlib.suppress(Exception):  # whatever fails here, the process ends
            print(
                f"{reason}: the training has not stopped after {STOP_LIMIT_S:.0f} s; this is where it is:",
                file=sys.stderr,
            )
            faulthandler.dump_traceback(2)
            self.on_limit(f"{reason}: the training did not stop within {STOP_LIMIT_S:.0f} s, {TOO_SLOW}")
        kill_tree(os.getpid())


def _leave_pipe_to_parent() -> None:
    with contextlib.suppress(ValueError):  # a fork of another thread than the main one
        signal.set_wakeup_fd(-1)
