"""Signals that ask a training to save and stop, and the limit after which it is ended, whatever its code does."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

from launchers.processes.cleanup import kill_tree

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""USR2 comes from the scheduler before the time limit, and reaches every process of a job."""
TIMEOUT_S = 30.0
"""The default of `stop_timeout_s`."""
TOO_SLOW = "so its processes were ended; it continues from its last checkpoint"


def get_stop_timeout_s(config: Mapping[str, Any]) -> float:
    """Seconds from the request to stop until every process of a training is gone; trials of earlier versions lack the key."""
    return float(config.get("stop_timeout_s", TIMEOUT_S))


def save_limit_s(timeout_s: float) -> float:
    """How long a training may take to save and stop. A process then ends itself, with a traceback of every thread in its log."""
    return timeout_s - min(7.0, timeout_s / 4)


def kill_limit_s(timeout_s: float) -> float:
    """When the launching side kills a training that has not ended itself, because its code never gives up Python's lock.

    The rest of the time is for its own end: the outcome, and the sync to MLflow.
    """
    return timeout_s - min(5.0, timeout_s / 6)


class StopSignal:
    """Why the training should stop after the current step: a signal came, or the launching process has ended.

    Attributes:
        on_limit: called with the reason, from another thread, just before the process ends itself.
        timeout_s: see `get_stop_timeout_s`; it may be changed until a stop is requested.
    """

    def __init__(self, numbers: Collection[signal.Signals] = STOP_SIGNALS, timeout_s: float = TIMEOUT_S) -> None:
        self.reason: str | None = None
        self.timeout_s = timeout_s
        self.on_limit: Callable[[str], None] = lambda reason: None
        self._is_closed = threading.Event()
        # Python calls a handler between two instructions of the main thread, so not while that hangs in a call. The number
        # of the signal is in the pipe at once.
        read, write = os.pipe()
        os.set_blocking(write, False)
        self._pipe = write
        self._wakeup_before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=_leave_pipe_to_parent)
        threading.Thread(target=self._watch_signals, args=(read, frozenset(numbers)), daemon=True).start()
        self._before = {number: signal.signal(number, self._on_signal) for number in numbers}
        # The launching side starts this process with the signals blocked, so an early signal waits until here.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)

    def close(self) -> None:
        """Restore the earlier handlers; a stop that was requested has no limit any more."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._is_closed.set()
        os.close(self._pipe)

    def __call__(self) -> str | None:
        return self.reason

    def watch_launcher(self, descriptor: int) -> None:
        """From now on the end of this pipe is a reason to stop: the launching process holds its other end."""
        threading.Thread(target=self._watch_launcher, args=(descriptor,), daemon=True).start()

    def _on_signal(self, number: int, frame: object) -> None:
        self.reason = signal.Signals(number).name

    def _watch_signals(self, descriptor: int, numbers: Collection[int]) -> None:
        while received := os.read(descriptor, 4096):
            if found := [number for number in received if number in numbers]:
                self._end_at_limit(signal.Signals(found[0]).name)
        os.close(descriptor)

    def _watch_launcher(self, descriptor: int) -> None:
        while os.read(descriptor, 4096):
            pass
        self.reason = self.reason or "the launching process has ended"
        self._end_at_limit(self.reason)

    def _end_at_limit(self, reason: str) -> None:
        """End this process and all that it has started; if the training stops in time, this thread ends with the process."""
        limit_s = save_limit_s(self.timeout_s)
        if self._is_closed.wait(limit_s):
            return
        with contextlib.suppress(Exception):  # whatever fails here, the process ends
            print(
                f"{reason}: the training has not stopped after {limit_s:.0f} s; this is where it is:",
                file=sys.stderr,
            )
            faulthandler.dump_traceback(2)
            self.on_limit(f"{reason}: the training did not stop within {limit_s:.0f} s, {TOO_SLOW}")
        kill_tree(os.getpid())


def _leave_pipe_to_parent() -> None:
    with contextlib.suppress(ValueError):  # a fork of another thread than the main one
        signal.set_wakeup_fd(-1)
