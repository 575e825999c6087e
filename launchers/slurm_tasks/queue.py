"""What SLURM says of workers: one question for all of them, and no answer is no news."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALIVE = frozenset(
    {"RUNNING", "SUSPENDED", "CONFIGURING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED"}
)
"""States in which a worker that began may still be at work: while it completes, it may be saving what it has."""
REQUEUED, UNKNOWN = "REQUEUED", "UNKNOWN"
PATIENCE_S = 30.0
"""How long an answer is waited for; SLURM's own commands give up after some 10 s of trying."""
FORGOTTEN = "invalid job id"
"""What squeue says where it knows none of the jobs that it was asked for."""


class NoAnswerError(Exception):
    """SLURM did not answer; the message is what it said instead."""


@dataclass(frozen=True)
class TaskRestart:
    """One start of one worker, as its name tells: ``1234_5.0``, or ``1234.0`` outside of an array."""

    task: str
    """What SLURM calls it, ``1234_5``."""
    restart: int

    @classmethod
    def of(cls, worker: str) -> TaskRestart | None:
        """None where the name is of another launcher's worker."""
        task, _, restart = worker.rpartition(".")
        if not (restart.isdecimal() and task.replace("_", "").isdecimal()):
            return None
        return cls(task, int(restart))

    @property
    def job(self) -> str:
        return self.task.partition("_")[0]


class SlurmQueue:
    """The scheduler's view of jobs; `environment` is what its commands see, so that no user's setting changes an answer."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self._has_accounting = True
        self._was_told = False
        self._waiting: dict[str, int] = {}

    def lost(self, workers: Sequence[str]) -> dict[str, str]:
        """Of these workers those that are gone, and the state in which SLURM saw them last."""
        named = {worker: found for worker in workers if (found := TaskRestart.of(worker)) is not None}
        if not named:
            return {}
        jobs = sorted({found.job for found in named.values()})
        try:
            rows = self._squeue(jobs)
        except NoAnswerError as err:
            self._tell(str(err))
            return {}
        gone, forgotten = {}, {}
        for worker, found in named.items():
            if found.task not in rows:
                forgotten[worker] = found
            elif (state := _why_gone(found, *rows[found.task])) is not None:
                gone[worker] = state
        return gone | self._ended(forgotten)

    def _ended(self, workers: Mapping[str, TaskRestart]) -> dict[str, str]:
        """How workers ended that the controller has forgotten, where the accounts tell."""
        told = self._sacct(sorted({found.job for found in workers.values()})) if workers else {}
        states = {worker: told.get(found.task, UNKNOWN) for worker, found in workers.items()}
        return {worker: state for worker, state in states.items() if state not in ALIVE | {"PENDING"}}

    def waiting(self, jobs: Sequence[str]) -> int:
        """Tasks that have not begun, or begin again; as many as before where there is no answer, at first one a job."""
        try:
            rows = self._squeue(jobs) if jobs else {}
        except NoAnswerError as err:
            self._tell(str(err))
        else:
            pending = [task.partition("_")[0] for task, (state, _) in rows.items() if state == "PENDING"]
            self._waiting |= {job: pending.count(job) for job in jobs}
        return sum(self._waiting.get(job, 1) for job in jobs)

    def ask(self, *command: str, told: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run one of SLURM's commands.

        Args:
            command: such as ``squeue -h``.
            told: its standard input.

        Raises:
            NoAnswerError: it is not there, or does not end.
        """
        try:
            return subprocess.run(
                command, env=self.environment, input=told or "", capture_output=True, text=True, errors="replace",
                timeout=PATIENCE_S, check=False,
            )  # fmt: skip
        except OSError as err:
            raise NoAnswerError(f"{command[0]}: {err.strerror}") from err
        except subprocess.TimeoutExpired as err:
            raise NoAnswerError(f"{command[0]} has not answered for {PATIENCE_S:.0f} s") from err

    def _squeue(self, jobs: Sequence[str]) -> dict[str, tuple[str, int]]:
        """State and number of restarts of every task that the controller remembers."""
        columns = "ArrayJobID:24,ArrayTaskID:24,JobID:24,State:24,RestartCnt:24"
        done = self.ask("squeue", "-h", "-r", "-a", "-t", "all", "-j", ",".join(jobs), "-O", columns)
        if done.returncode != 0 and FORGOTTEN not in done.stderr.lower():
            raise NoAnswerError(done.stderr.strip() or f"squeue ended with code {done.returncode}")
        rows = {}
        for line in done.stdout.splitlines() if done.returncode == 0 else ():
            array, task, job, state, restarts = line.split()[:5]
            rows[f"{array}_{task}" if task.isdecimal() else job] = (state, int(restarts))
        return rows

    def _sacct(self, jobs: Sequence[str]) -> dict[str, str]:
        """Last state of every task; empty where the site keeps no accounts, which is asked for once."""
        if not self._has_accounting:
            return {}
        try:
            done = self.ask("sacct", "-n", "-P", "-X", "-j", ",".join(jobs), "-o", "JobID,State")
        except NoAnswerError:
            done = None
        if done is None or done.returncode != 0:
            self._has_accounting = False
            return {}
        rows = (line.split("|") for line in done.stdout.splitlines())
        return {task: state.split()[0] for task, state, *_ in rows if state}  # of "CANCELLED by 1000" the first word

    def _tell(self, said: str) -> None:
        if not self._was_told:
            self._was_told = True
            line = " ".join(said.split())
            print(
                f"slurm does not answer ({line}); meanwhile heartbeats alone tell which workers are gone",
                file=sys.stderr,
            )


def _why_gone(worker: TaskRestart, state: str, restarts: int) -> str | None:
    """The state by which a worker is gone; None while it may be at work."""
    if state in ALIVE and (restarts == worker.restart or state == "COMPLETING"):
        return None
    return REQUEUED if state in ALIVE | {"PENDING", "REQUEUED"} else state
