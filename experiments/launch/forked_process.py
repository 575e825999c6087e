"""One rank of an attempt in a forked child of a warm process: what happens to it harms no other."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from experiments.launch.fork import PR_SET_PDEATHSIG, run_in_fork
from experiments.launch.stop import STOP_SIGNALS, StopSignal
from experiments.launch.training_process import run_attempt
from experiments.launch.wakeup import SignalWaiter
from experiments.trial.trial import Trial
from launchers.processes.cleanup import clean_up, find_descendants
from modules.parallel.base import Rank


class ForkedRank:
    """A running one."""

    def __init__(self, trial: Trial, attempt: int, trust: tuple[str, ...], rank: Rank, bell: SignalWaiter) -> None:
        """Fork, and run one rank's part of an attempt."""
        self.code: int | None = None
        # Blocked until it can answer them: a signal in its first moments would end it without a word.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        self.pid = os.fork()
        if self.pid == 0:
            _be_child(lambda: run_attempt(trial, attempt, trust, rank, StopSignal()), bell)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def poll(self) -> int | None:
        """Exit code, the negative number of the signal that ended it, or None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                clean_up(self.pid)
        return self.code

    def signal(self, number: int) -> None:
        if self.code is None:
            started = find_descendants(self.pid) if number == signal.SIGKILL else []
            os.kill(self.pid, number)
            for process in started:
                if process.is_running():
                    process.kill()


def _be_child(run: Callable[[], int], bell: SignalWaiter) -> None:
    """The child's whole life."""

    def begin() -> int:
        bell.forget()
        os.setsid()
        if sys.platform == "linux":  # asked to save and stop when the worker is killed
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        return run()

    run_in_fork(begin)


def memory_ran_out() -> int:
    """How often this machine has ended a process for want of memory since it started; 0 where it does not tell."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
