"""The state of workers as SLURM reports it: one query for all workers; without an answer no worker counts as lost."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launchers.slurm_tasks.output import parse_jobs, parse_last_states, parse_task_states

ALIVE = frozenset(
    {"RUNNING", "SUSPENDED", "CONFIGURING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED"}
)
"""States in which a worker may still be running: a job that is COMPLETING may be saving a checkpoint."""
REQUEUED, UNKNOWN = "REQUEUED", "UNKNOWN"
TIMEOUT_S = 30.0
"""For one command; SLURM's own commands give up after about 10 s."""
INVALID_JOB = "invalid job id"
"""Part of squeue's error when it knows none of the jobs in a query."""


class NoAnswerError(Exception):
    """SLURM did not answer; the message holds the command's error."""


@dataclass(frozen=True)
class TaskRestart:
    """One start of one worker, parsed from the worker's name: ``1234_5.0``, or ``1234.0`` outside of an array."""

    task: str
    """SLURM's name of the task, ``1234_5``."""
    restart: int

    @classmethod
    def parse(cls, worker: str) -> TaskRestart | None:
        """Return None if the name belongs to a worker of another launcher."""
        task, _, restart = worker.rpartition(".")
        if not (restart.isdecimal() and task.replace("_", "").isdecimal()):
            return None
        return cls(task, int(restart))

    @property
    def job(self) -> str:
        return self.task.partition("_")[0]


class SlurmQueue:
    """Queries SLURM. Its commands get `environment` only, so a user's settings do not change an answer."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self._has_accounting = True
        self._has_warned = False
        self._pending: dict[str, int] = {}

    def find_lost(self, workers: Sequence[str]) -> dict[str, str]:
        """Return the workers that have ended, and the last state that SLURM reported."""
        starts = {worker: start for worker in workers if (start := TaskRestart.parse(worker)) is not None}
        if not starts:
            return {}
        jobs = sorted({start.job for start in starts.values()})
        try:
            rows = self._squeue(jobs)
        except NoAnswerError as err:
            self._warn_once(str(err))
            return {}
        lost, forgotten = {}, {}
        for worker, start in starts.items():
            if start.task not in rows:
                forgotten[worker] = start
            elif (state := _lost_state(start, *rows[start.task])) is not None:
                lost[worker] = state
        return lost | self._find_ended(forgotten)

    def _find_ended(self, workers: Mapping[str, TaskRestart]) -> dict[str, str]:
        """Return how workers ended that the controller no longer knows, from the accounting database if there is one."""
        last_states = self._sacct(sorted({start.job for start in workers.values()})) if workers else {}
        states = {worker: last_states.get(start.task, UNKNOWN) for worker, start in workers.items()}
        return {worker: state for worker, state in states.items() if state not in ALIVE | {"PENDING"}}

    def count_pending(self, jobs: Sequence[str]) -> int:
        """Return how many tasks wait to start or restart. Without an answer: the last known number, or one per job."""
        try:
            rows = self._squeue(jobs) if jobs else {}
        except NoAnswerError as err:
            self._warn_once(str(err))
        else:
            pending = [task.partition("_")[0] for task, (state, _) in rows.items() if state == "PENDING"]
            self._pending |= {job: pending.count(job) for job in jobs}
        return sum(self._pending.get(job, 1) for job in jobs)

    def run_command(self, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run one of SLURM's commands.

        Raises:
            NoAnswerError: the command is missing or does not end in time.
        """
        try:
            return subprocess.run(
                command, env=self.environment, input=stdin, capture_output=True, text=True, errors="replace",
                timeout=TIMEOUT_S, check=False, encoding="utf-8"
            )  # fmt: skip
        except OSError as err:
            raise NoAnswerError(f"{command[0]}: {err.strerror}") from err
        except subprocess.TimeoutExpired as err:
            raise NoAnswerError(f"{command[0]} has not answered for {TIMEOUT_S:.0f} s") from err

    def _squeue(self, jobs: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Return the state and number of restarts of every task that the controller knows."""
        columns = "ArrayJobID:24,ArrayTaskID:24,JobID:24,State:24,RestartCnt:24"
        done = self.run_command("squeue", "-h", "-r", "-a", "-t", "all", "-j", ",".join(jobs), "-O", columns)
        if done.returncode != 0 and INVALID_JOB not in done.stderr.lower():
            raise NoAnswerError(done.stderr.strip() or f"squeue ended with code {done.returncode}")
        output = done.stdout if done.returncode == 0 else ""
        return {task: (state, restarts) for task, state, restarts in parse_task_states(output)}

    def find_jobs(self, name: str, folder: Path) -> list[str]:
        """Return the jobs of this user with a name whose output goes to a folder; other jobs may have the same name.

        Raises:
            NoAnswerError: SLURM does not answer.
        """
        done = self.run_command("squeue", "-h", "-a", "--me", "-n", name, "-O", "ArrayJobID:24")
        if done.returncode != 0:
            raise NoAnswerError(done.stderr.strip() or f"squeue ended with code {done.returncode}")
        jobs = parse_jobs(done.stdout)
        parts = map(re.escape, re.split("%+[A-Za-z0-9]?", str(folder)))  # scontrol shows job numbers there
        output = re.compile(rf"^\s*StdOut={'.*'.join(parts)}/", re.MULTILINE)
        return [job for job in jobs if output.search(self.run_command("scontrol", "show", "job", job).stdout)]

    def _sacct(self, jobs: Sequence[str]) -> dict[str, str]:
        """Return the last state of every task. A site without accounting gives {} and is not queried again."""
        if not self._has_accounting:
            return {}
        try:
            done = self.run_command("sacct", "-n", "-P", "-X", "-j", ",".join(jobs), "-o", "JobID,State")
        except NoAnswerError:
            done = None
        if done is None or done.returncode != 0:
            self._has_accounting = False
            return {}
        return parse_last_states(done.stdout)

    def _warn_once(self, error: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            line = " ".join(error.split())
            print(
                f"slurm does not answer ({line}); until it does, only missing heartbeats show that a worker has ended",
                file=sys.stderr,
            )


def _lost_state(worker: TaskRestart, state: str, restarts: int) -> str | None:
    """Return the state of a worker that has ended; None while it may be running."""
    if state in ALIVE and (restarts == worker.restart or state == "COMPLETING"):
        return None
    return REQUEUED if state in ALIVE | {"PENDING", "REQUEUED"} else state
