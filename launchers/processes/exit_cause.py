"""Which rank of a training decides how it ended."""

from __future__ import annotations

import signal
import time

GRACE_S = 5.0
"""How long ranks may say their last words after one of them has failed: they notice it in a tenth of a second."""


class FirstFailure:
    """The first rank that failed; but one that was killed comes before others that gave up for it, seen earlier or not.

    Attributes:
        rank: the one that decides; None while none has failed.
        is_ours: whether the ranks that are left are being killed by us: then a kill tells nothing.
    """

    def __init__(self) -> None:
        self.rank: int | None = None
        self.is_ours = False
        self._code = 0
        self._since: float | None = None

    def add(self, rank: int, code: int) -> None:
        """A rank has ended with an exit code, or by the signal of a negative number."""
        was_killed = code == -signal.SIGKILL and not self.is_ours
        if code and (self.rank is None or (was_killed and self._code > 0)):
            self.rank, self._code = rank, code
            self._since = self._since or time.monotonic()

    @property
    def is_overdue(self) -> bool:
        """Whether those that are left have had their time to end."""
        return self._since is not None and time.monotonic() - self._since > GRACE_S
