"""Runs one rank of an attempt in a fork of a worker, so that a crash of the rank does not harm the worker."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from experiments.launch.fork import PR_SET_PDEATHSIG, run_in_fork
from experiments.launch.stop import STOP_SIGNALS, StopSignal
from experiments.launch.training_process import run_rank
from experiments.launch.wakeup import SignalWaiter
from experiments.trial.trial import Trial
from launchers.processes.cleanup import clean_up, kill_tree
from modules.parallel.base import Rank


class ForkedRank:
    """A running rank."""

    def __init__(self, trial: Trial, attempt: int, trust: tuple[str, ...], rank: Rank, waiter: SignalWaiter) -> None:
        self.code: int | None = None

        def run_child() -> int:
            waiter.release()
            os.setsid()
            if sys.platform == "linux":  # save and stop when the worker is killed
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            return run_rank(trial, attempt, trust, rank, StopSignal())

        # Blocked until the child has its handlers: an earlier signal would end it without a report.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        self.pid = os.fork()
        if self.pid == 0:
            run_in_fork(run_child)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def poll(self) -> int | None:
        """Return the exit code, the negative number of the signal that ended the rank, or None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                clean_up(self.pid)
        return self.code

    def signal(self, number: int) -> None:
        if self.code is None:
            if number == signal.SIGKILL:
                kill_tree(self.pid)
            else:
                os.kill(self.pid, number)


def count_oom_kills() -> int:
    """Return how many processes this machine has killed for lack of memory since it booted; 0 if it does not count them."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
