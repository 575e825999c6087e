"""The ranks of one training on this machine: started, signalled and ended together."""

from __future__ import annotations

import shutil
import signal
import tempfile

from launchers.base import AttemptSpec
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
        shutil.rmtree(self._rendezvous_dir, ignore_errors=True)
        return 0 if self._failure.rank is None else self._codes[self._failure.rank]

    def signal(self, number: int) -> None:
        self._failure.killed_by_us |= number == signal.SIGKILL
        for rank, process in enumerate(self._processes):
            if rank not in self._codes:
                process.signal(number)
