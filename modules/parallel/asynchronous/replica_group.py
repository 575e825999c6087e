"""Replicas that compute one gradient together, and form again after one of them has died."""

from __future__ import annotations

import time

import torch
from torch import Tensor
from torch._C._distributed_c10d import (
    AllreduceOptions,
    BroadcastOptions,
    PrefixStore,
    ProcessGroupGloo,
    ReduceOp,
    Store,
)

from modules.parallel.asynchronous.transport import CONNECT, Closed, PeerLost

LOOKS_EVERY_S = 0.01
ORDER = 4
"""Numbers by which the first member tells the others what comes: whether to end, the round, the chunk, whether weights follow."""


class ReplicaGroup:
    """One member's view of it; alone, it has nobody to talk to."""

    def __init__(self, store: Store, number: int, member: int, size: int) -> None:
        """
        Args:
            store: of the meeting.
            number: of the group.
            member: which of its replicas this is; 0 leads.
            size: members.
        """
        self._store, self._number, self.member, self.size = store, number, member, size
        self._formation = 0
        self._joined: ProcessGroupGloo | None = None

    @property
    def leads(self) -> bool:
        return self.member == 0

    def form(self) -> None:
        """Wait until all members are there.

        Raises:
            Gone: the meeting is over.
        """
        while self.size > 1 and self._joined is None:
            formation = self._next()
            own = self._store.clone()  # type: ignore[attr-defined]
            store = PrefixStore(f"group/{self._number}/{formation}", own)
            try:
                self._joined = ProcessGroupGloo(store, self.member, self.size, CONNECT)
                # One may have come to what another has left already: all of them say that they are there.
                self._joined.allreduce([torch.zeros(1)]).wait(CONNECT)  # type: ignore[attr-defined]
            except RuntimeError:
                self._joined = None

    def _next(self) -> int:
        """The formation to try next: the first member opens it, the others wait for it."""
        key = f"group/{self._number}/formations"
        try:
            if self.leads:
                self._formation = self._store.add(key, 1)
                return self._formation
            while (found := self._store.add(key, 0)) <= self._formation:
                time.sleep(LOOKS_EVERY_S)
        except RuntimeError as err:
            raise PeerLost(f"{err}") from err
        self._formation = found
        return found

    def leave(self) -> None:
        """Leave a formation that is no more; what others wait for in it fails at once."""
        if self._joined is not None:
            self._joined.abort()
        self._joined = None

    def share(self, tensor: Tensor) -> None:
        """Give all members what the first has.

        Raises:
            Closed: a member has died.
        """
        if self._joined is not None:
            options = BroadcastOptions()
            options.rootRank = 0
            self._wait(self._joined.broadcast([tensor], options))  # type: ignore[attr-defined]

    def add(self, tensor: Tensor) -> None:
        """Add up what all members have, in place.

        Raises:
            Closed: a member has died.
        """
        if self._joined is not None:
            options = AllreduceOptions()
            options.reduceOp = ReduceOp(ReduceOp.SUM)
            self._wait(self._joined.allreduce([tensor], options))  # type: ignore[attr-defined]

    @staticmethod
    def _wait(work: object) -> None:
        try:
            work.wait()  # type: ignore[attr-defined]
        except RuntimeError as err:
            raise Closed(f"{err}") from err
