"""Decides which rank's exit code is the exit code of a training."""

from __future__ import annotations

import signal
import time

GRACE_S = 5.0
"""How long the other ranks may take to report their errors after the first failure; they notice it within 0.1 s."""


class FirstFailure:
    """The first rank that failed. A rank that was killed takes precedence over ranks that failed because of it.

    Attributes:
        rank: the rank that decides; None while no rank has failed.
        killed_by_us: True once the launching side kills the remaining ranks; a kill is then not a cause.
    """

    def __init__(self) -> None:
        self.rank: int | None = None
        self.killed_by_us = False
        self._code = 0
        self._since: float | None = None

    def add(self, rank: int, code: int) -> None:
        """Note that a rank ended with an exit code, or by the signal of a negative number."""
        was_killed = code == -signal.SIGKILL and not self.killed_by_us
        if code and (self.rank is None or (was_killed and self._code > 0)):
            self.rank, self._code = rank, code
            self._since = self._since or time.monotonic()

    @property
    def is_overdue(self) -> bool:
        """Whether the other ranks have had `GRACE_S` to end."""
        return self._since is not None and time.monotonic() - self._since > GRACE_S
