"""A process's connections to all parameter servers, made again where one of them has died and come back."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor
from torch._C._distributed_c10d import Store

from modules.parallel.asynchronous.flat_parameters import FlatParameters
from modules.parallel.asynchronous.server_process import FIELDS, STALENESS_BINS, Op, header_size
from modules.parallel.asynchronous.transport import Closed, Connection, Listener, PeerLost

BACK_S = 120.0
"""For a server to be started again and to read its snapshot."""


class ServerConnections:
    """To every server one."""

    def __init__(self, store: Store, flat: FlatParameters, num_servers: int) -> None:
        self._store, self._flat = store, flat
        self.bounds = [flat.shard(number, num_servers) for number in range(num_servers)]
        self._failed: dict[int, str] = {}
        self._starts: dict[int, str] = {}
        self._wires: dict[int, Connection] = {number: self._join(number) for number in range(num_servers)}
        self.versions = [0] * num_servers
        self._incarnations = [0] * num_servers
        self._header = torch.zeros(header_size(flat), dtype=torch.float64)

    def _join(self, number: int) -> Connection:
        """
        Raises:
            Gone: the server has gone and does not come back, or the meeting is over.
        """
        deadline = time.monotonic() + BACK_S
        while time.monotonic() < deadline:
            try:
                starts = self._store.get(f"server/{number}").decode()
            except RuntimeError as err:
                raise PeerLost(f"{err}") from err
            if starts == self._failed.get(number):
                time.sleep(0.02)
                continue
            self._starts[number] = starts
            try:
                return Listener(self._store, f"server/{number}/{starts}", header_size(self._flat)).knock()
            except Closed:
                self._failed[number] = starts
        raise PeerLost(f"parameter server {number} has gone, and has not come back in {BACK_S:.0f} s")

    def _again(self, number: int) -> Connection:
        self._failed[number] = self._starts[number]
        self._wires[number] = self._join(number)
        return self._wires[number]

    def pull(self, vector: Tensor, buffers: Tensor) -> None:
        """Fetch the weights, and remember of which versions they are."""
        self._fetch(Op.PULL, vector, buffers)

    def mark(self, vector: Tensor, buffers: Tensor) -> None:
        """Let every server keep a copy of what it has, and fetch its weights."""
        self._fetch(Op.MARK, vector, buffers)

    def _fetch(self, op: Op, vector: Tensor, buffers: Tensor) -> None:
        self._ask_all([op])
        for number, (start, stop) in enumerate(self.bounds):
            into = (vector[start:stop], *self._first(number, buffers))
            while True:
                try:
                    _, incarnation, version, *_ = self._wires[number].receive()
                    self._wires[number].read(*into)
                    break
                except Closed:
                    self._ask(number, [op])
            self._incarnations[number], self.versions[number] = int(incarnation), int(version)

    def push(
        self, gradient: Tensor, present: Tensor, buffers: Tensor, chunk: int, update: int, *, leads: bool
    ) -> bool:  # fmt: skip
        """Give every server its part of a gradient; whether all of them have taken it."""
        self._header[FIELDS + STALENESS_BINS :] = present
        is_sent = []
        for number, (start, stop) in enumerate(self.bounds):
            told = [Op.PUSH, self._incarnations[number], self.versions[number], chunk, update, leads]
            self._header[: len(told)] = torch.tensor(told, dtype=torch.float64)
            try:
                self._wires[number].write(self._header, gradient[start:stop], *self._first(number, buffers))
                is_sent.append(True)
            except Closed:
                is_sent.append(False)
        taken = [self._is_taken(number, sent) for number, sent in enumerate(is_sent)]  # each has answered
        return all(taken)

    def _is_taken(self, number: int, is_sent: bool) -> bool:
        try:
            return is_sent and self._wires[number].receive()[3] > 0
        except Closed:
            return False  # the gradient is computed again, on weights that the server has; `pull` joins it

    def restore(self) -> None:
        """Let every server become what lies in its snapshot's file."""
        self._tell(Op.RESTORE)

    def write(self) -> None:
        """Let every server write what was marked."""
        self._tell(Op.WRITE)

    def _tell(self, op: Op) -> None:
        self._ask_all([op])
        for number in range(len(self.bounds)):
            self._answer(number, op)

    def stats(self) -> list[list[float]]:
        """Every server's, since it was asked last."""
        self._ask_all([Op.STATS])
        return [self._answer(number, Op.STATS) for number in range(len(self.bounds))]

    def end(self) -> None:
        """Let every server end."""
        for wire in self._wires.values():
            try:
                wire.send([Op.END])
                wire.receive()
            except Closed:
                continue

    def _answer(self, number: int, op: Op) -> list[float]:
        while True:
            try:
                return self._wires[number].receive()
            except Closed:
                self._ask(number, [op])

    def _ask_all(self, header: Sequence[float]) -> None:
        for number, wire in self._wires.items():
            try:
                wire.send(header)
            except Closed:
                self._ask(number, header)

    def _ask(self, number: int, header: Sequence[float]) -> None:
        """Ask one that has come back."""
        while True:
            try:
                self._again(number).send(header)
                return
            except PeerLost:
                raise
            except Closed:
                continue

    def _first(self, number: int, buffers: Tensor) -> tuple[Tensor, ...]:
        return (buffers,) if number == 0 and len(buffers) else ()
