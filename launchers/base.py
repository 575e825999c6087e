"""The contract of a launcher: where a trial runs, and how the launching side holds on to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

DONE, FAILED, WRONG_INPUT = 0, 1, 2
"""Exit codes of a job; so are those of the command line."""
NO_ROOM = 74
"""Exit code of a job whose last words the disk did not take; EX_IOERR of sysexits.h."""


@dataclass(frozen=True)
class AttemptSpec:
    """One attempt at one trial; a path and names, never code."""

    folder: Path
    attempt: int
    trust: tuple[str, ...] = ()
    """Packages beyond the house's own whose classes the trial may name."""
    nodes: int = 1
    ranks_per_node: int = 1
    """Processes of the training on each node, one a device."""

    @property
    def ranks(self) -> int:
        return self.nodes * self.ranks_per_node


class Handle(Protocol):
    """A running attempt: one process, or the ranks of one training, which end together."""

    @property
    def pid(self) -> int:
        """Process of the first rank."""
        ...

    def poll(self) -> int | None:
        """Exit code, the negative number of the signal that ended it, or None while it runs.

        Of several ranks, that of the first that failed; when one fails, the others are ended.
        """
        ...

    @property
    def failed_rank(self) -> int | None:
        """Of several ranks, the first that failed; None where none did."""
        ...

    def signal(self, number: int) -> None:
        """Pass a signal on, also to a job that is still starting; nothing happens where it has ended."""
        ...


class Launcher(Protocol):
    def warm(self) -> None:
        """Start what can be started before the trial is known, for the next `launch` to use."""
        ...

    def dismiss(self) -> None:
        """End what was warmed and not used."""
        ...

    def launch(self, assignment: AttemptSpec) -> Handle:
        """Start `python -m experiments.launch.training_process` on an attempt.

        Raises:
            LaunchError: the machine, or the scheduler, refuses.
        """
        ...


class LaunchError(Exception):
    """An attempt could not be started; the message says what refused it and what to change."""


@dataclass(frozen=True)
class WorkerPool:
    """Workers that pull the trials of one sweep, and what each of them is given; a path and numbers, never code."""

    folder: Path
    """The sweep's."""
    code: Path
    """The frozen packages, which stand first on the import path of a worker."""
    name: str
    workers: int
    """How many at most are of use: crews of all workers together are no more than trials."""
    nodes: int
    """Nodes of one worker."""
    devices_per_node: int
    ranks_per_node: int
    """Of one trial, one a device."""
    crews: int
    """Trials that one worker runs side by side."""
    device: str
    """auto, cpu or cuda."""
    threads_per_rank: int | None
    """None: the launcher decides, so that no core is given twice."""
    slurm: Mapping[str, Any] | None = None
    """The scheduler's words, `hardware.slurm`."""
    trust: tuple[str, ...] = ()
    """Packages beyond the house's own whose classes trials may name."""

    @property
    def ranks(self) -> int:
        """Processes of one worker."""
        return self.crews * self.ranks_of_a_trial

    @property
    def nodes_of_a_trial(self) -> int:
        """A trial of part of a node's devices stays on one node."""
        return self.nodes if self.ranks_per_node == self.devices_per_node else 1

    @property
    def ranks_of_a_trial(self) -> int:
        return self.nodes_of_a_trial * self.ranks_per_node


@dataclass(frozen=True)
class RankPlacement:
    """The place of one process of a worker: which rank of which crew, and what of the machine is its own."""

    worker: str
    """Job, task and restart count, or a local name; unlike any other worker's of the sweep."""
    crew: int = 0
    """Processes that run a trial together."""
    rank: int = 0
    """Within the crew."""
    on_node: int = 0
    """Within the ranks of the crew on its node."""
    per_node: int = 1
    """Ranks of the crew on its node."""
    ranks: int = 1
    """Of the crew."""
    address: str = "127.0.0.1"
    """Where the other ranks of the crew reach its first."""
    cpus: tuple[int, ...] | None = None
    """Cores that this process may use; None: those that it has already."""
    threads: int | None = None
    """Of torch; None: one a core."""
    job: str | None = None
    """What the scheduler calls the job, such as ``1234_5``; None on this machine alone."""
    ends: float | None = None
    """Unix time at which the scheduler ends the worker."""
    lead_s: float = 0.0
    """How long before that it says so."""


class Executor(Protocol):
    """Where a sweep's workers run: a pool of this machine, or a scheduler's job array."""

    def submit(self, pool: WorkerPool) -> str:
        """Start workers, which outlive this process; the name by which `cancel` and `lost` know them.

        Raises:
            LaunchError: the machine, or the scheduler, refuses.
        """
        ...

    def tasks(self, pool: WorkerPool) -> int:
        """How many workers `submit` would start."""
        ...

    def describe(self, pool: WorkerPool) -> str:
        """What `submit` would hand over, to the letter."""
        ...

    def lost(self, jobs: Sequence[str]) -> dict[str, str]:
        """Of these workers (`RankPlacement.worker`), those that are known to be gone and why, by one question for all."""
        ...

    def waiting(self, jobs: Sequence[str]) -> int:
        """How many workers of these submissions have not begun yet."""
        ...

    def cancel(self, jobs: Sequence[str]) -> None:
        """End the workers of these submissions; those that have ended already are no fault."""
        ...
