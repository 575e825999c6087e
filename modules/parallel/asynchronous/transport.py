"""Two processes joined by a connection of their own, which fails alone: a header of numbers, then flat tensors; no pickle.

Every pair is a process group of gloo with two members, made when one of them knocks: processes come and go while others go on.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, ProcessGroupGloo, Store, TCPStore
from torch.distributed import DistNetworkError

LOOPBACK = "127.0.0.1"
CONNECT = timedelta(seconds=20)
"""For two that both want to be joined: 26 ms on one machine (2026-11-28); more means that one has died meanwhile."""
PATIENCE = timedelta(days=7)
"""For a message: one that died is noticed at once, and one that computes is waited for."""
MEET_S = 300.0
"""For the first process to open the meeting, imports on a cold file system among it."""


class Closed(DistNetworkError):
    """The process at the other end has gone."""


class PeerLost(Closed):
    """It has gone, and nobody comes in its place."""


def closed(err: RuntimeError) -> Closed:
    """What torch and gloo said of it, without their sources' lines and advice."""
    said = re.sub(r"^\[\S+:\d+\] ", "", str(err)).partition(". This is typically")[0]
    return Closed(said.partition("Exception raised from")[0].strip())


class Connection:
    """One end of a pair."""

    def __init__(self, store: Store, side: int, header: int) -> None:
        """Join the other end.

        Args:
            store: of this pair alone.
            side: 0 of the one who opens, 1 of the one who knocked.
            header: numbers of a header, the same at both ends.

        Raises:
            Closed: it is not there.
        """
        self._other = 1 - side
        self._header = torch.empty(header, dtype=torch.float64)
        try:
            self._pair = ProcessGroupGloo(store, side, 2, CONNECT)
        except RuntimeError as err:
            raise closed(err) from err

    def send(self, header: Sequence[float], *tensors: Tensor) -> None:
        """Send a header and contiguous tensors on the CPU, a message each.

        Raises:
            Closed: the other end has gone.
        """
        told = torch.zeros_like(self._header)
        told[: len(header)] = torch.tensor(header, dtype=torch.float64)
        self.write(told, *tensors)

    def write(self, *tensors: Tensor) -> None:
        """Send tensors as they are."""
        try:
            for tensor in tensors:
                self._pair.send([tensor], self._other, 0).wait(PATIENCE)  # type: ignore[attr-defined]
        except RuntimeError as err:
            raise closed(err) from err

    def receive(self) -> list[float]:
        """The next header; tensors that follow are asked for by `read`."""
        self.read(self._header)
        told: list[float] = self._header.tolist()
        return told

    def read(self, *tensors: Tensor) -> None:
        """Receive into tensors."""
        try:
            for tensor in tensors:
                self._pair.recv([tensor], self._other, 0).wait(PATIENCE)  # type: ignore[attr-defined]
        except RuntimeError as err:
            raise closed(err) from err


def open_meeting(meeting: str, listener: int | None) -> TCPStore:
    """Where all processes of a training find each other; it lasts as long as the process that opens it.

    Args:
        meeting: the rank's: ``file://`` a path that all see, where its address will be written, or ``tcp://host:port``.
        listener: the open socket that listens there; None: one is opened.
    """
    host, _, port = meeting.removeprefix("tcp://").rpartition(":")
    if meeting.startswith("tcp://"):
        return TCPStore(host, int(port), is_master=True, wait_for_workers=False, master_listen_fd=listener)
    store = TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False)
    path = _address_of(meeting)
    path.with_suffix(".new").write_text(str(store.port))
    os.replace(path.with_suffix(".new"), path)
    return store


def find_meeting(meeting: str) -> TCPStore:
    """Join it.

    Raises:
        Closed: nobody has opened it.
    """
    if meeting.startswith("tcp://"):
        host, _, port = meeting.removeprefix("tcp://").rpartition(":")
    else:
        host, port = LOOPBACK, _port_of(meeting)
    try:
        return TCPStore(host, int(port), is_master=False, wait_for_workers=False)
    except RuntimeError as err:
        raise closed(err) from err


def _port_of(meeting: str) -> str:
    """The port that is written at a meeting's path, once somebody has opened it."""
    deadline = time.monotonic() + MEET_S
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            return _address_of(meeting).read_text()
        time.sleep(0.01)
    raise Closed(f"nobody has opened the meeting {meeting} in {MEET_S:.0f} s")


def _address_of(meeting: str) -> Path:
    return Path(meeting.removeprefix("file://")).with_suffix(".address")


class Listener:
    """Where newcomers knock: who keeps it makes a pair with each."""

    def __init__(self, store: Store, name: str, header: int) -> None:
        self._store, self._key, self._header = store, f"door/{name}", header

    def knock(self) -> Connection:
        """Be let in.

        Raises:
            Closed: who keeps the door has gone.
        """
        try:
            ticket = str(self._store.add("tickets", 1))
            self._store.queue_push(self._key, ticket)
        except RuntimeError as err:
            raise closed(err) from err
        return self._pair(ticket, 1)

    def waiting(self) -> str | None:
        """The ticket of one that has knocked."""
        try:
            if not self._store.queue_len(self._key):
                return None
            ticket = self._store.queue_pop(self._key)
        except RuntimeError as err:
            raise closed(err) from err
        return ticket.decode() if isinstance(ticket, bytes) else str(ticket)

    def let_in(self, ticket: str) -> Connection:
        return self._pair(ticket, 0)

    def _pair(self, ticket: str, side: int) -> Connection:
        # A client of its own: it waits for the other side, and others go on asking the store meanwhile.
        own = self._store.clone()  # type: ignore[attr-defined]
        return Connection(PrefixStore(f"pair/{ticket}", own), side, self._header)
