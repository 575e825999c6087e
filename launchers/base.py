"""The contract of a launcher: where a trial runs, and how the launching side holds on to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

DONE, FAILED, WRONG_INPUT = 0, 1, 2
"""Exit codes of a job; so are those of the command line."""
NO_ROOM = 74
"""Exit code of a job whose last words the disk did not take; EX_IOERR of sysexits.h."""


@dataclass(frozen=True)
class Assignment:
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

    def launch(self, assignment: Assignment) -> Handle:
        """Start `python -m experiments.job` on an attempt.

        Raises:
            LaunchError: the machine, or the scheduler, refuses.
        """
        ...


class LaunchError(Exception):
    """An attempt could not be started; the message says what refused it and what to change."""
