"""The ranks of one training on this machine: started, signalled and ended together."""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile

import psutil

from launchers.base import AttemptSpec
from launchers.processes.cleanup import clean_up, find_descendants, free_shared_memory
from launchers.processes.exit_cause import FirstFailure
from launchers.processes.process import TrainingProcess


class LocalRanks:
    """One process per rank. The ranks meet through a temporary file, so no port can be taken by another process."""

    def __init__(self, first: TrainingProcess, spec: AttemptSpec) -> None:
        """
        Args:
            first: the process of rank 0, without an assignment.
            spec: states the number of ranks.

        Raises:
            LaunchError: the machine refuses another process; those that were started are ended.
        """
        self._rendezvous_dir = tempfile.mkdtemp(prefix="lathe-")
        self._processes = [first]
        self._codes: dict[int, int] = {}
        self._failure = FirstFailure()
        self._is_clean = False
        try:
            while len(self._processes) < spec.world_size:
                self._processes.append(TrainingProcess())
            for rank, process in enumerate(self._processes):
                process.assign(spec, rank, f"file://{self._rendezvous_dir}/ranks")
        except BaseException:  # also for Ctrl-C
            for process in self._processes:
                process.discard()
            shutil.rmtree(self._rendezvous_dir)
            raise

    @property
    def pid(self) -> int:
        return self._processes[0].pid

    @property
    def failed_rank(self) -> int | None:
        return self._failure.rank

    def poll(self) -> int | None:
        left = [(rank, process) for rank, process in enumerate(self._processes) if rank not in self._codes]
        ended = {rank: code for rank, process in left if (code := process.poll()) is not None}
        self._codes |= ended
        for rank, code in ended.items():
            self._failure.add(rank, code)
        if len(self._codes) < len(self._processes):
            if self._failure.is_overdue:
                self.signal(signal.SIGKILL)
            return None
        if not self._is_clean:
            self._clean()
            self._is_clean = True
        return 0 if self._failure.rank is None else self._codes[self._failure.rank]

    def signal(self, number: int) -> None:
        self._failure.killed_by_us |= number == signal.SIGKILL
        for rank, process in enumerate(self._processes):
            if rank in self._codes:
                continue
            # Processes that a rank has started, to load data or to compile, must not outlive it.
            descendants = find_descendants(process.pid) if number == signal.SIGKILL else []
            process.signal(number)
            for child in descendants:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            for pid in (process.pid, *(child.pid for child in descendants)) if number == signal.SIGKILL else ():
                free_shared_memory(pid)

    def _clean(self) -> None:
        shutil.rmtree(self._rendezvous_dir, ignore_errors=True)
        for process in self._processes:
            clean_up(process.pid)
