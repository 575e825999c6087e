"""A rank of an asynchronous training: it keeps processes, a replica and perhaps a server, and starts again what was killed."""

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

from experiments.run.journal import Journal
from experiments.trial.trial import Trial
from launchers.base import DONE, FAILED
from launchers.processes.cleanup import free_shared_memory

if TYPE_CHECKING:
    from modules.parallel.base import ManagedEngine, Rank

COORDINATOR = "coordinator"
PR_SET_NAME = 15  # of linux/prctl.h
LOOKS_EVERY_S = 0.02
GRACE_S = 3.0
"""How long others may take to end after the coordinator has."""
MOST_DEATHS = 10
"""Of one role, after which the run fails: what kills it so often will go on."""


def is_supervised(config: Mapping[str, Any]) -> bool:
    """Whether a trial's ranks are keepers."""
    return "servers" in config["parallel"]


@dataclass
class SupervisedProcess:
    """A process that is kept."""

    pid: int
    word: int
    """Descriptor that takes why the training should stop."""
    deaths: int = 0


class ProcessSupervisor:
    """One rank's."""

    def __init__(
        self, trial: Trial, attempt: int, trust: tuple[str, ...], rank: Rank, should_stop: Callable[[], str | None]
    ) -> None:  # fmt: skip
        """
        Args:
            trial: whose.
            attempt: its number; what is printed goes where this process prints.
            trust: packages beyond the house's own that may be named.
            rank: this one.
            should_stop: why the training should stop.
        """
        self.trial, self.attempt, self.trust, self.should_stop = trial, attempt, trust, should_stop
        self.folder = trial.folder / "attempts" / str(attempt)
        self.rank = rank
        self._kept: dict[str, SupervisedProcess] = {}
        self._is_told = False

    def run(self) -> int:
        """Keep them until all have ended; the exit code of the rank."""
        with tempfile.TemporaryDirectory(prefix="lathe-") as folder:
            if not self.rank.meeting:
                self.rank = replace(self.rank, meeting=f"file://{folder}/ranks")
            try:
                for role in self._roles():
                    self._start(role)
                return self._keep()
            finally:
                self._end_all()

    def _roles(self) -> list[str]:
        """This rank's."""
        from experiments.components.assemble import make_engine
        from experiments.plan.plan import make_plan

        config = self.trial.config_of(self.attempt)
        roles = cast("ManagedEngine", make_engine(config, self.trust)).roles(make_plan(config).topology)
        first = [COORDINATOR] if self.rank.number == 0 else []
        return first + [role for role, rank in roles.items() if rank == self.rank.number]

    def _start(self, role: str, deaths: int = 0) -> None:
        # Here, as it imports who imports this; and before a fork, which then finds it.
        from experiments.launch.fork import run_in_fork

        read, write = os.pipe()
        os.set_blocking(read, False)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            os.close(write)
            for kept in self._kept.values():
                os.close(kept.word)
            run_in_fork(partial(_be, role, partial(self._play, role, read)))
        os.close(read)
        self._kept[role] = SupervisedProcess(pid, write, deaths)

    def _play(self, role: str, word: int) -> int:
        """The life of one that is kept."""
        from experiments.train.async_roles import Coordinator, ReplicaOrServer
        from experiments.train.attempt import execute

        is_first = role == COORDINATOR
        make = Coordinator if is_first else partial(ReplicaOrServer, role=role)
        with Journal(self.folder / "journal.jsonl" if is_first else Path(os.devnull)) as journal:
            return execute(self.trial, self.attempt, self.trust, self.rank, journal, StopPipe(word), make)

    def _keep(self) -> int:
        while self._kept:
            if not self._is_told and (reason := self.should_stop()) is not None:
                self._tell(reason)
            for role, kept in list(self._kept.items()):
                pid, status = os.waitpid(kept.pid, os.WNOHANG)
                if pid and (code := self._ended(role, os.waitstatus_to_exitcode(status))) is not None:
                    return code
            time.sleep(LOOKS_EVERY_S)
        return DONE

    def _ended(self, role: str, code: int) -> int | None:
        """One has ended; the rank's exit code, where it ends with it."""
        kept = self._kept.pop(role)
        os.close(kept.word)
        free_shared_memory(kept.pid)
        if role == COORDINATOR:
            if code < 0:
                print(f"{role} was ended by {signal.Signals(-code).name}, and the attempt ends with it", flush=True)
            self._wait(GRACE_S)
            return code
        if code == DONE:
            return None
        if code > 0:
            if self._is_over():
                return None
            return code
        if kept.deaths + 1 >= MOST_DEATHS:
            print(
                f"{role} was ended by {signal.Signals(-code).name} {MOST_DEATHS} times; it is not started again",
                flush=True,
            )
            return FAILED
        print(f"{role} was ended by {signal.Signals(-code).name}; it is started again", flush=True)
        self._start(role, kept.deaths + 1)
        return None

    def _is_over(self) -> bool:
        """Whether the coordinator has ended meanwhile, which all others notice."""
        coordinator = self._kept.get(COORDINATOR)
        if coordinator is None:
            return False
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            if os.waitid(os.P_PID, coordinator.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return True
            time.sleep(LOOKS_EVERY_S)
        return False

    def _tell(self, reason: str) -> None:
        self._is_told = True
        for kept in self._kept.values():
            with contextlib.suppress(BrokenPipeError):  # it has just ended
                os.write(kept.word, reason.encode())

    def _wait(self, seconds: float) -> None:
        """Let those that are left end."""
        deadline = time.monotonic() + seconds
        while self._kept and time.monotonic() < deadline:
            for role, kept in list(self._kept.items()):
                if os.waitpid(kept.pid, os.WNOHANG)[0]:
                    del self._kept[role]
            time.sleep(LOOKS_EVERY_S)

    def _end_all(self) -> None:
        for kept in self._kept.values():
            os.kill(kept.pid, signal.SIGKILL)
        for kept in self._kept.values():
            os.waitpid(kept.pid, 0)
            free_shared_memory(kept.pid)


def keep(trial: Trial, attempt: int, trust: tuple[str, ...], rank: Rank, should_stop: Callable[[], str | None]) -> int:
    """Be a keeper; ends by the signal that ended the coordinator, as a rank that trains would have."""
    code = ProcessSupervisor(trial, attempt, trust, rank, should_stop).run()
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


class StopPipe:
    """What the keeper has told: why to stop."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._reason = descriptor, ""

    def __call__(self) -> str | None:
        if not self._reason:
            with contextlib.suppress(BlockingIOError):
                self._reason = os.read(self._descriptor, 4096).decode()
        return self._reason or None


def _be(role: str, run: Callable[[], int]) -> int:
    """A kept process's whole life: it answers no signal to stop, which is its keeper's affair, and does not outlive it."""
    from experiments.launch.fork import PR_SET_PDEATHSIG
    from experiments.launch.stop import STOP_SIGNALS

    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        ctypes.CDLL(None).prctl(PR_SET_NAME, role.encode())  # as `ps` and `top` show it
    return run() if parent == os.getppid() != 1 else FAILED
