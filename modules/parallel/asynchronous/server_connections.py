"""A process's connections to all parameter servers. A connection is made again when its server restarts."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from modules.parallel.asynchronous.flat_parameters import FlatParameters
from modules.parallel.asynchronous.server_process import FIELDS, STALENESS_BINS, Op, header_size
from modules.parallel.asynchronous.transport import Closed, Connection, Listener, PeerLost
from modules.parallel.shared_store import SharedStore

RESTART_TIMEOUT_S = 120.0
"""Time for a server to restart and read its snapshot."""


class ServerConnections:
    """One connection per server."""

    def __init__(self, store: SharedStore, flat: FlatParameters, num_servers: int) -> None:
        self._store, self._flat = store, flat
        self.bounds = [flat.shard(number, num_servers) for number in range(num_servers)]
        self._failed: dict[int, str] = {}
        self._starts: dict[int, str] = {}
        self._connections: dict[int, Connection] = {number: self._connect(number) for number in range(num_servers)}
        self.versions = [0] * num_servers
        self._incarnations = [0] * num_servers
        self._header = torch.zeros(header_size(flat), dtype=torch.float64)

    def _connect(self, number: int) -> Connection:
        """
        Raises:
            PeerLost: the server has died and does not come back, or the training is over.
        """
        deadline = time.monotonic() + RESTART_TIMEOUT_S
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
                return Listener(self._store, f"server/{number}/{starts}", header_size(self._flat)).connect()
            except Closed:
                self._failed[number] = starts
        raise PeerLost(f"parameter server {number} has died and did not come back within {RESTART_TIMEOUT_S:.0f} s")

    def _reconnect(self, number: int) -> Connection:
        self._failed[number] = self._starts[number]
        self._connections[number] = self._connect(number)
        return self._connections[number]

    def pull(self, vector: Tensor, buffers: Tensor) -> None:
        """Fetch the weights, and remember their versions."""
        self._fetch(Op.PULL, vector, buffers)

    def mark(self, vector: Tensor, buffers: Tensor) -> None:
        """Let each server keep a copy of its current state, and fetch its weights."""
        self._fetch(Op.MARK, vector, buffers)

    def _fetch(self, op: Op, vector: Tensor, buffers: Tensor) -> None:
        self._send_all([op])
        for number, (start, stop) in enumerate(self.bounds):
            into = (vector[start:stop], *self._buffers_for(number, buffers))
            while True:
                try:
                    _, incarnation, version, *_ = self._connections[number].receive()
                    self._connections[number].read(*into)
                    break
                except Closed:
                    self._send_again(number, [op])
            self._incarnations[number], self.versions[number] = int(incarnation), int(version)

    def push(
        self, gradient: Tensor, present: Tensor, buffers: Tensor, chunk: int, update: int, *, leads: bool
    ) -> bool:  # fmt: skip
        """Send each server its part of a gradient; True if all servers accepted it."""
        self._header[FIELDS + STALENESS_BINS :] = present
        is_sent = []
        for number, (start, stop) in enumerate(self.bounds):
            header = [Op.PUSH, self._incarnations[number], self.versions[number], chunk, update, leads]
            self._header[: len(header)] = torch.tensor(header, dtype=torch.float64)
            try:
                self._connections[number].write(self._header, gradient[start:stop], *self._buffers_for(number, buffers))
                is_sent.append(True)
            except Closed:
                is_sent.append(False)
        accepted = [self._is_accepted(number, sent) for number, sent in enumerate(is_sent)]  # receive every reply
        return all(accepted)

    def _is_accepted(self, number: int, is_sent: bool) -> bool:
        try:
            return is_sent and self._connections[number].receive()[3] > 0
        except Closed:
            return False  # the gradient is computed again on the restarted server's weights; `pull` reconnects

    def restore(self) -> None:
        """Let each server restore its snapshot file."""
        self._run_everywhere(Op.RESTORE)

    def write(self) -> None:
        """Let each server write its marked copy."""
        self._run_everywhere(Op.WRITE)

    def _run_everywhere(self, op: Op) -> None:
        self._send_all([op])
        for number in range(len(self.bounds)):
            self._receive_reply(number, op)

    def stats(self) -> list[list[float]]:
        """Statistics of each server since the last call."""
        self._send_all([Op.STATS])
        return [self._receive_reply(number, Op.STATS) for number in range(len(self.bounds))]

    def end(self) -> None:
        """End all servers."""
        for connection in self._connections.values():
            try:
                connection.send([Op.END])
                connection.receive()
            except Closed:
                continue

    def _receive_reply(self, number: int, op: Op) -> list[float]:
        while True:
            try:
                return self._connections[number].receive()
            except Closed:
                self._send_again(number, [op])

    def _send_all(self, header: Sequence[float]) -> None:
        for number, connection in self._connections.items():
            try:
                connection.send(header)
            except Closed:
                self._send_again(number, header)

    def _send_again(self, number: int, header: Sequence[float]) -> None:
        """Send a header to a server that has restarted."""
        while True:
            try:
                self._reconnect(number).send(header)
                return
            except PeerLost:
                raise
            except Closed:
                continue

    def _buffers_for(self, number: int, buffers: Tensor) -> tuple[Tensor, ...]:
        return (buffers,) if number == 0 and len(buffers) else ()
