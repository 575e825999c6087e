"""The ranks of one training on this machine: started, signalled and ended together."""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile

import psutil

from launchers.base import AttemptSpec
from launchers.processes.cleanup import children, clear, free_shared_memory
from launchers.processes.exit_cause import FirstFailure
from launchers.processes.process import Job


class LocalRanks:
    """A job a rank; they meet at a file that goes with them, so that no port can be taken."""

    def __init__(self, first: Job, assignment: AttemptSpec) -> None:
        """
        Args:
            first: the process of rank 0, not yet assigned.
            assignment: with the number of ranks.

        Raises:
            LaunchError: the machine refuses another process; then none is left.
        """
        self._meeting = tempfile.mkdtemp(prefix="lathe-")
        self._jobs = [first]
        self._codes: dict[int, int] = {}
        self._blame = FirstFailure()
        self._is_clean = False
        try:
            while len(self._jobs) < assignment.ranks:
                self._jobs.append(Job())
            for rank, job in enumerate(self._jobs):
                job.assign(assignment, rank, f"file://{self._meeting}/ranks")
        except BaseException:  # Ctrl-C among them
            for job in self._jobs:
                job.dismiss()
            shutil.rmtree(self._meeting)
            raise

    @property
    def pid(self) -> int:
        return self._jobs[0].pid

    @property
    def failed_rank(self) -> int | None:
        return self._blame.rank

    def poll(self) -> int | None:
        left = [(rank, job) for rank, job in enumerate(self._jobs) if rank not in self._codes]
        ended = {rank: code for rank, job in left if (code := job.poll()) is not None}
        self._codes |= ended
        for rank, code in ended.items():
            self._blame.add(rank, code)
        if len(self._codes) < len(self._jobs):
            if self._blame.is_overdue:
                self.signal(signal.SIGKILL)
            return None
        if not self._is_clean:
            self._clean()
            self._is_clean = True
        return 0 if self._blame.rank is None else self._codes[self._blame.rank]

    def signal(self, number: int) -> None:
        self._blame.is_ours |= number == signal.SIGKILL
        for rank, job in enumerate(self._jobs):
            if rank in self._codes:
                continue
            # What a rank has started, to fetch data or to compile, does not outlive it.
            started = children(job.pid) if number == signal.SIGKILL else []
            job.signal(number)
            for child in started:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            for pid in (job.pid, *(child.pid for child in started)) if number == signal.SIGKILL else ():
                free_shared_memory(pid)

    def _clean(self) -> None:
        """Leave nothing behind, whatever ended them."""
        shutil.rmtree(self._meeting, ignore_errors=True)
        for job in self._jobs:
            clear(job.pid)
