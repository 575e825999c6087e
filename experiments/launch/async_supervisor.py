"""Supervises the processes of one rank of an asynchronous training: replicas and servers, and on rank 0 the coordinator.

A replica or a server that a signal ended is restarted. The rank ends with its coordinator.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from experiments.config.rules.engine import read_engine
from experiments.launch.fork import PR_SET_PDEATHSIG, run_in_fork
from experiments.launch.stop import STOP_SIGNALS
from experiments.run.journal import Journal
from experiments.trial.trial import Trial
from launchers.base import DONE, FAILED
from launchers.processes.cleanup import free_shared_memory

if TYPE_CHECKING:
    from modules.parallel.base import ManagedEngine, Rank

COORDINATOR = "coordinator"
PR_SET_NAME = 15  # of linux/prctl.h
POLL_S = 0.02
GRACE_S = 3.0
"""How long the other processes may take to end after the coordinator has ended."""
MAX_KILLS = 10
"""Of one role; the run then fails, because the cause will probably not go away."""


def is_supervised(config: Mapping[str, Any]) -> bool:
    """Return whether the ranks of a trial run a supervisor."""
    return read_engine(config).is_managed


@dataclass
class SupervisedProcess:
    pid: int
    stop_fd: int
    """Write end of the process's `StopPipe`."""
    num_kills: int = 0


class ProcessSupervisor:
    """The supervisor of one rank."""

    def __init__(
        self, trial: Trial, attempt: int, trust: tuple[str, ...], rank: Rank, should_stop: Callable[[], str | None]
    ) -> None:  # fmt: skip
        """
        Args:
            trial: to train.
            attempt: its number; the processes print to the output of this one.
            trust: packages, besides the built-in ones, whose classes the trial may name.
            rank: this rank.
            should_stop: returns why the training should stop, or None.
        """
        self.trial, self.attempt, self.trust, self.should_stop = trial, attempt, trust, should_stop
        self.folder = trial.folder / "attempts" / str(attempt)
        self.rank = rank
        self._processes: dict[str, SupervisedProcess] = {}
        self._is_stopping = False

    def run(self) -> int:
        """Run until all processes have ended; return the exit code of the rank."""
        with tempfile.TemporaryDirectory(prefix="lathe-") as folder:
            if not self.rank.rendezvous:
                self.rank = replace(self.rank, rendezvous=f"file://{folder}/ranks")
            try:
                for role in self._list_roles():
                    self._start(role)
                return self._supervise()
            finally:
                self._kill_all()

    def _list_roles(self) -> list[str]:
        from experiments.components.assemble import make_engine
        from experiments.plan.plan import make_plan

        config = self.trial.read_attempt_config(self.attempt)
        roles = cast("ManagedEngine", make_engine(config, self.trust)).roles(make_plan(config).topology)
        first = [COORDINATOR] if self.rank.number == 0 else []
        return first + [role for role, rank in roles.items() if rank == self.rank.number]

    def _start(self, role: str, num_kills: int = 0) -> None:
        read, write = os.pipe()
        os.set_blocking(read, False)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            os.close(write)
            for other in self._processes.values():
                os.close(other.stop_fd)
            run_in_fork(partial(_run_supervised, role, partial(self._run_role, role, read)))
        os.close(read)
        self._processes[role] = SupervisedProcess(pid, write, num_kills)

    def _run_role(self, role: str, stop_fd: int) -> int:
        """Run one role in a forked process."""
        from experiments.train.async_roles import Coordinator, ReplicaOrServer
        from experiments.train.attempt import run_attempt

        is_first = role == COORDINATOR
        make = Coordinator if is_first else partial(ReplicaOrServer, role=role)
        with Journal(self.folder / "journal.jsonl" if is_first else Path(os.devnull)) as journal:
            return run_attempt(self.trial, self.attempt, self.trust, self.rank, journal, StopPipe(stop_fd), make)

    def _supervise(self) -> int:
        while self._processes:
            if not self._is_stopping and (reason := self.should_stop()) is not None:
                self._send_stop(reason)
            for role, process in list(self._processes.items()):
                pid, status = os.waitpid(process.pid, os.WNOHANG)
                if pid and (code := self._on_exit(role, os.waitstatus_to_exitcode(status))) is not None:
                    return code
            time.sleep(POLL_S)
        return DONE

    def _on_exit(self, role: str, code: int) -> int | None:
        """Handle the end of a process; return the exit code of the rank if the rank ends with it."""
        process = self._processes.pop(role)
        os.close(process.stop_fd)
        free_shared_memory(process.pid)
        if role == COORDINATOR:
            if code < 0:
                print(f"{role} was ended by {signal.Signals(-code).name}, and the attempt ends with it", flush=True)
            self._wait(GRACE_S)
            return code
        if code == DONE:
            return None
        if code > 0:
            return None if self._has_coordinator_ended() else code
        if process.num_kills + 1 >= MAX_KILLS:
            print(
                f"{role} was ended by {signal.Signals(-code).name} {MAX_KILLS} times; it is not restarted",
                flush=True,
            )
            return FAILED
        print(f"{role} was ended by {signal.Signals(-code).name}; it is restarted", flush=True)
        self._start(role, process.num_kills + 1)
        return None

    def _has_coordinator_ended(self) -> bool:
        """Return whether the coordinator ends within a second; the other processes fail when it does."""
        coordinator = self._processes.get(COORDINATOR)
        if coordinator is None:
            return False
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            if os.waitid(os.P_PID, coordinator.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return True
            time.sleep(POLL_S)
        return False

    def _send_stop(self, reason: str) -> None:
        self._is_stopping = True
        for process in self._processes.values():
            with contextlib.suppress(BrokenPipeError):  # the process has just ended
                os.write(process.stop_fd, reason.encode())

    def _wait(self, seconds: float) -> None:
        """Wait for the remaining processes to end."""
        deadline = time.monotonic() + seconds
        while self._processes and time.monotonic() < deadline:
            for role, process in list(self._processes.items()):
                if os.waitpid(process.pid, os.WNOHANG)[0]:
                    del self._processes[role]
            time.sleep(POLL_S)

    def _kill_all(self) -> None:
        for process in self._processes.values():
            os.kill(process.pid, signal.SIGKILL)
        for process in self._processes.values():
            os.waitpid(process.pid, 0)
            free_shared_memory(process.pid)


def run_supervisor(
    trial: Trial, attempt: int, trust: tuple[str, ...], rank: Rank, should_stop: Callable[[], str | None]
) -> int:
    """Run the supervisor of a rank. If a signal ended the coordinator, end this process by the same signal."""
    code = ProcessSupervisor(trial, attempt, trust, rank, should_stop).run()
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


class StopPipe:
    """Reads from a pipe why the supervisor wants the training to stop."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._reason = descriptor, ""

    def __call__(self) -> str | None:
        if not self._reason:
            with contextlib.suppress(BlockingIOError):
                self._reason = os.read(self._descriptor, 4096).decode()
        return self._reason or None


def _run_supervised(role: str, run: Callable[[], int]) -> int:
    """Run a supervised process: it ignores stop signals, which the supervisor handles, and ends with the supervisor."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        ctypes.CDLL(None).prctl(PR_SET_NAME, role.encode())  # the name in `ps` and `top`
    return run() if parent == os.getppid() != 1 else FAILED
