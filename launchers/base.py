"""The contract of a launcher: where a trial runs, and how the launching side controls it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

DONE, FAILED, WRONG_INPUT = 0, 1, 2
"""Exit codes of a training process and of the command line."""
DISK_FULL = 74
"""Exit code of a training process that cannot write its error to the disk; EX_IOERR of sysexits.h."""
JOURNAL_LOST = 66
"""Exit code of a training process whose journal was removed; EX_NOINPUT of sysexits.h."""
REQUEUE = 75
"""Exit code of a worker that stops while trials are left; EX_TEMPFAIL of sysexits.h."""


@dataclass(frozen=True)
class AttemptSpec:
    """One attempt of one trial: paths and names, never code."""

    folder: Path
    """The run's."""
    attempt: int
    trust: tuple[str, ...] = ()
    """Packages, besides the built-in ones, whose classes the trial may name."""
    nodes: int = 1
    ranks_per_node: int = 1
    """Training processes on each node, one per device."""

    @property
    def world_size(self) -> int:
        return self.nodes * self.ranks_per_node


class Handle(Protocol):
    """A running attempt: one process, or all ranks of one training, which end together."""

    @property
    def pid(self) -> int:
        """Process id of the first rank."""
        ...

    def poll(self) -> int | None:
        """Return the exit code, the negative number of the signal that ended the attempt, or None while it runs.

        With several ranks this is the code of the first rank that failed. When one rank fails, the others are ended.
        """
        ...

    @property
    def failed_rank(self) -> int | None:
        """The first of several ranks that failed; None if no rank failed."""
        ...

    def signal(self, number: int) -> None:
        """Send a signal, also to a process that is still starting. Does nothing after the attempt has ended."""
        ...


class Launcher(Protocol):
    def prestart(self) -> None:
        """Start what does not depend on the trial, for the next `launch` to use."""
        ...

    def discard(self) -> None:
        """End what `prestart` started and `launch` did not use."""
        ...

    def launch(self, spec: AttemptSpec) -> Handle:
        """Start `experiments.launch.training_process` for an attempt.

        Raises:
            LaunchError: the machine or the scheduler refuses.
        """
        ...


class LaunchError(Exception):
    """An attempt could not be started; the message says what refused it and what to change."""


class SubmissionUnclearError(LaunchError):
    """The scheduler may have accepted the workers, but did not say under which job name."""


def module_command(module: str, code: Path | None = None) -> list[str]:
    """Arguments for Python that run a module of Lathe, as `-m` would, whatever packages are on PYTHONPATH.

    Example: ``[sys.executable, "-P", *module_command("experiments.cli"), "ls"]``

    Args:
        module: its name in a checkout.
        code: a folder with a copy of Lathe, possibly of an earlier version; None: the running one. It may not exist yet.
    """
    start = START if code is None else code / "lathe" / "start.py"
    is_earlier = code is not None and code.is_dir() and not start.is_file()
    return ["-m", module] if is_earlier else [str(start), module]


PREFIX = __name__.removesuffix("launchers.base")
"""What comes before the names of Lathe's modules: ``lathe.`` where it is installed, nothing in a checkout."""
START = Path(__file__).parents[1] / ("start.py" if PREFIX else "lathe/start.py")
"""Runs modules of Lathe."""
WORKER_MODULE = "experiments.sweep.worker.worker"
"""What `python -m` runs as a worker. Each sweep stores the name, because its workers run its own copy of the code."""


WORKER_OPTIONS = ("--trust",)
"""Further options of a worker. Each sweep stores them too."""


@dataclass(frozen=True)
class WorkerPool:
    """The workers that run the trials of one sweep, and the resources of each: paths and numbers, never code."""

    folder: Path
    """The sweep's."""
    code: Path
    """The frozen packages. Trusted packages with names of Lathe's are in the folder ``user`` next to it."""
    name: str
    max_workers: int
    """More workers than this would have no trial to run."""
    nodes: int
    """Of one worker."""
    devices_per_node: int
    ranks_per_node: int
    """Of one trial, one per device."""
    trials_per_worker: int
    """Trials that one worker runs side by side."""
    device: str
    """auto, cpu or cuda."""
    threads_per_rank: int | None
    """None: the launcher divides the cores."""
    slurm: Mapping[str, Any] | None = None
    """Settings of the scheduler, `hardware.slurm`."""
    trust: tuple[str, ...] = ()
    """Packages, besides the built-in ones, whose classes the trials may name. Workers get them in their start command."""
    worker_module: str | None = None
    """What `python -m` runs as a worker of ``code``; None: a sweep of the first version, which did not store it."""

    @property
    def import_path(self) -> list[Path]:
        """The folders that come first on a worker's import path."""
        user = self.code.parent / "user"
        return [self.code, user] if user.is_dir() else [self.code]

    @property
    def trust_options(self) -> list[str]:
        """Arguments of a worker's start command: ``--trust=PACKAGE`` for each package."""
        return [f"--trust={package}" for package in self.trust]

    @property
    def ranks_per_worker(self) -> int:
        return self.trials_per_worker * self.ranks_per_trial

    @property
    def nodes_per_trial(self) -> int:
        """A trial that uses only some devices of a node stays on one node."""
        return self.nodes if self.ranks_per_node == self.devices_per_node else 1

    @property
    def ranks_per_trial(self) -> int:
        return self.nodes_per_trial * self.ranks_per_node


PLACEMENT_VARIABLE = "LATHE_SEAT"
"""Environment variable that holds a worker's `RankPlacement` as JSON."""
_JSON_KEYS = {
    "group": "crew", "local_rank": "on_node", "local_world_size": "per_node", "world_size": "ranks",
    "leader_address": "address", "ends_at": "ends", "signal_delay_s": "lead_s",
}  # fmt: skip
"""Keys that differ from the attributes. Workers run the copy of this code that their sweep froze, so the keys must not change."""


@dataclass(frozen=True)
class RankPlacement:
    """Where one process of a worker runs: its rank, its group, and its part of the machine."""

    worker: str
    """Job, task and restart count, or a local name; unique within the sweep."""
    group: int = 0
    """Number of the rank group; the ranks of a group run a trial together."""
    rank: int = 0
    """Within the group."""
    local_rank: int = 0
    """Among the ranks of the group on this node."""
    local_world_size: int = 1
    """Ranks of the group on this node."""
    world_size: int = 1
    """Ranks of the group."""
    leader_address: str = "127.0.0.1"
    """Where the other ranks of the group reach rank 0."""
    cpus: tuple[int, ...] | None = None
    """Cores that this process may use; None: no change."""
    threads: int | None = None
    """Of torch; None: one per core."""
    job: str | None = None
    """The scheduler's name of the job, such as ``1234_5``; None without a scheduler."""
    ends_at: float | None = None
    """Unix time at which the scheduler ends the worker."""
    signal_delay_s: float = 0.0
    """How long before `ends_at` the scheduler sends its signal."""

    def to_json(self) -> str:
        return json.dumps({_JSON_KEYS.get(name, name): value for name, value in asdict(self).items()})

    @classmethod
    def from_json(cls, text: str) -> RankPlacement:
        names = {key: name for name, key in _JSON_KEYS.items()}
        fields = {names.get(key, key): value for key, value in json.loads(text).items()}
        return cls(**{**fields, "cpus": tuple(fields["cpus"]) if fields["cpus"] else None})


class Executor(Protocol):
    """Where the workers of a sweep run: on this machine, or in a scheduler's job array."""

    def submit(self, pool: WorkerPool) -> str:
        """Start workers, which outlive this process, and return the job name for `cancel` and `count_pending`.

        Raises:
            LaunchError: the machine or the scheduler refuses.
            SubmissionUnclearError: the workers may have been submitted all the same.
        """
        ...

    def find_jobs(self, pool: WorkerPool) -> list[str]:
        """Return the names of all jobs of this sweep that the scheduler has; for a submission without an answer.

        Raises:
            LaunchError: the scheduler does not answer.
        """
        ...

    def count_workers(self, pool: WorkerPool) -> int:
        """Return how many workers `submit` would start."""
        ...

    def describe(self, pool: WorkerPool) -> str:
        """Return the exact text that `submit` would submit."""
        ...

    def find_lost(self, workers: Sequence[str]) -> dict[str, str]:
        """Return which of these workers (`RankPlacement.worker`) have certainly ended, and why. One query for all."""
        ...

    def count_pending(self, jobs: Sequence[str]) -> int:
        """Return how many workers of these jobs have not started yet."""
        ...

    def cancel(self, jobs: Sequence[str]) -> None:
        """End the workers of these jobs; workers that have ended already are ignored."""
        ...
