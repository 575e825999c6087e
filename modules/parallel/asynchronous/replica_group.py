"""Replicas that compute one gradient together. The group forms again after a member has died."""

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
)

from modules.parallel.asynchronous.transport import CONNECT_TIMEOUT, Closed, PeerLost
from modules.parallel.shared_store import SharedStore

POLL_S = 0.01
COMMAND_SIZE = 4
"""Numbers in a command of the first member: whether to end, the chunk, the update, whether weights follow."""


class ReplicaGroup:
    """One member's view of its group. A group of one member does not communicate."""

    def __init__(self, store: SharedStore, number: int, member: int, size: int) -> None:
        """
        Args:
            store: where the processes of this training find each other.
            number: number of the group.
            member: number of this replica in the group; 0 leads.
            size: number of members.
        """
        self._store, self._number, self.member, self.size = store, number, member, size
        self._formation = 0
        self._process_group: ProcessGroupGloo | None = None

    @property
    def leads(self) -> bool:
        return self.member == 0

    def form(self) -> None:
        """Wait until all members have joined.

        Raises:
            PeerLost: the training is over.
        """
        while self.size > 1 and self._process_group is None:
            formation = self._next_formation()
            store_client = self._store.open_another()
            store = PrefixStore(f"group/{self._number}/{formation}", store_client)
            try:
                self._process_group = ProcessGroupGloo(store, self.member, self.size, CONNECT_TIMEOUT)
                # A member may join a formation that another has left already, so all members confirm that they are here.
                self._process_group.allreduce([torch.zeros(1)]).wait(CONNECT_TIMEOUT)  # type: ignore[attr-defined]
            except RuntimeError:
                self._process_group = None

    def _next_formation(self) -> int:
        """The number of the next formation: the first member opens it, the others wait for it."""
        key = f"group/{self._number}/formations"
        try:
            if self.leads:
                self._formation = self._store.add(key, 1)
                return self._formation
            while (number := self._store.add(key, 0)) <= self._formation:
                time.sleep(POLL_S)
        except RuntimeError as err:
            raise PeerLost(f"{err}") from err
        self._formation = number
        return number

    def leave(self) -> None:
        """Leave a broken formation; operations that other members wait for in it fail at once."""
        if self._process_group is not None:
            self._process_group.abort()
        self._process_group = None

    def broadcast(self, tensor: Tensor) -> None:
        """Send the first member's tensor to all members.

        Raises:
            Closed: a member has died.
        """
        if self._process_group is not None:
            options = BroadcastOptions()
            options.rootRank = 0
            self._wait(self._process_group.broadcast([tensor], options))  # type: ignore[attr-defined]

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum the tensor over all members, in place.

        Raises:
            Closed: a member has died.
        """
        if self._process_group is not None:
            options = AllreduceOptions()
            options.reduceOp = ReduceOp(ReduceOp.SUM)
            self._wait(self._process_group.allreduce([tensor], options))  # type: ignore[attr-defined]

    @staticmethod
    def _wait(work: object) -> None:
        try:
            work.wait()  # type: ignore[attr-defined]
        except RuntimeError as err:
            raise Closed(f"{err}") from err
