"""Trials as processes of this machine."""

from __future__ import annotations

from launchers.base import Assignment, Handle, LaunchError
from launchers.job import Job
from launchers.ranks import Ranks


class Local:
    """Starts every attempt at once on this machine, a process a rank."""

    def __init__(self) -> None:
        self._warm: Job | None = None

    def warm(self) -> None:
        """Start a process that imports torch while the configuration is still being composed."""
        self._warm = Job()

    def dismiss(self) -> None:
        if self._warm is not None:
            self._warm.dismiss()
            self._warm = None

    def launch(self, assignment: Assignment) -> Handle:
        if assignment.nodes > 1:
            raise LaunchError(
                f"launcher=local refused hardware.nodes={assignment.nodes}: it starts processes on this machine alone; "
                "set hardware.nodes=1"
            )
        job, self._warm = self._warm or Job(), None
        if assignment.ranks == 1:
            job.assign(assignment)
            return job
        return Ranks(job, assignment)
