"""A connection between two processes that fails alone. It carries headers of numbers and flat tensors, without pickle.

Each connection is a gloo process group with two members, so that processes can come and go while others continue.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, ProcessGroupGloo
from torch.distributed import DistNetworkError

from modules.parallel.shared_store import SharedStore

CONNECT_TIMEOUT = timedelta(seconds=20)
"""Connecting takes 26 ms on one machine (2026-11-28); a time-out means that the other process has died meanwhile."""
MESSAGE_TIMEOUT = timedelta(days=7)
"""For a message: a dead peer is noticed at once, and a peer that computes may take long."""


class Closed(DistNetworkError):
    """The process at the other end has exited."""


class PeerLost(Closed):
    """The process at the other end has exited for good."""


def to_connection_error(err: RuntimeError) -> Closed:
    """Make a `Closed` from an error of torch and gloo, without their source lines and advice."""
    message = re.sub(r"^\[\S+:\d+\] ", "", str(err)).partition(". This is typically")[0]
    return Closed(message.partition("Exception raised from")[0].strip())


class Connection:
    """One end of a connection."""

    def __init__(self, store: SharedStore, name: str, side: int, header: int) -> None:
        """Connect to the other end.

        Args:
            store: used by this connection only.
            name: of the connection in the store.
            side: 0 for the listener, 1 for the process that connects.
            header: numbers in a header, the same at both ends.

        Raises:
            Closed: the other end does not answer.
        """
        self._other, self._store = 1 - side, store
        self._header = torch.empty(header, dtype=torch.float64)
        try:
            self._pair = ProcessGroupGloo(PrefixStore(name, store), side, 2, CONNECT_TIMEOUT)
        except RuntimeError as err:
            raise to_connection_error(err) from err

    def send(self, header: Sequence[float], *tensors: Tensor) -> None:
        """Send a header, then each tensor (contiguous, on the CPU), as separate messages.

        Raises:
            Closed: the other end has exited.
        """
        values = torch.zeros_like(self._header)
        values[: len(header)] = torch.tensor(header, dtype=torch.float64)
        self.write(values, *tensors)

    def write(self, *tensors: Tensor) -> None:
        """Send tensors without a header."""
        try:
            for tensor in tensors:
                self._pair.send([tensor], self._other, 0).wait(MESSAGE_TIMEOUT)  # type: ignore[attr-defined]
        except RuntimeError as err:
            raise to_connection_error(err) from err

    def receive(self) -> list[float]:
        """Receive the next header; `read` receives the tensors that follow it."""
        self.read(self._header)
        values: list[float] = self._header.tolist()
        return values

    def read(self, *tensors: Tensor) -> None:
        """Receive into tensors."""
        try:
            for tensor in tensors:
                self._pair.recv([tensor], self._other, 0).wait(MESSAGE_TIMEOUT)  # type: ignore[attr-defined]
        except RuntimeError as err:
            raise to_connection_error(err) from err


class Listener:
    """Accepts connections under a name, and connects to a process that accepts them."""

    def __init__(self, store: SharedStore, name: str, header: int) -> None:
        self._store, self._key, self._header = store, f"listener/{name}", header

    def connect(self) -> Connection:
        """Connect to the process that listens under this name.

        Raises:
            Closed: that process has exited.
        """
        try:
            ticket = str(self._store.add("tickets", 1))
            self._store.queue_push(self._key, ticket)
        except RuntimeError as err:
            raise to_connection_error(err) from err
        return self._pair(ticket, 1)

    def next_ticket(self) -> str | None:
        """The ticket of a process that waits to connect; None where none waits."""
        try:
            return self._store.queue_pop(self._key)
        except RuntimeError as err:
            raise to_connection_error(err) from err

    def accept(self, ticket: str) -> Connection:
        return self._pair(ticket, 0)

    def _pair(self, ticket: str, side: int) -> Connection:
        # A separate client: this one blocks until the other side connects, while other threads use the store.
        try:
            own = self._store.open_another()
        except RuntimeError as err:
            raise to_connection_error(err) from err
        return Connection(own, f"pair/{ticket}", side, self._header)
