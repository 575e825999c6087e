"""The process of a parameter server: one thread per connection, all serving one shard."""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from enum import IntEnum
from pathlib import Path

import torch
from torch import Tensor

from modules.parallel.asynchronous.flat_parameters import FlatParameters
from modules.parallel.asynchronous.server_shard import ParameterShard, Push, ShardSnapshot
from modules.parallel.asynchronous.transport import Closed, Connection, Listener
from modules.parallel.shared_store import SharedStore

FIELDS = 24
"""Numbers in a header to or from a server, before the flags of the parameters that have a gradient."""
ACCEPT_EVERY_S = 0.01
STALENESS_BINS = 64


class Op(IntEnum):
    """Operations of a server."""

    PULL = 1
    PUSH = 2
    MARK = 3
    """Keep a copy of the state, and send its weights."""
    WRITE = 4
    """Write the marked copy to the marked file."""
    RESTORE = 5
    """Restore the snapshot file."""
    STATS = 6
    END = 7


def header_size(flat: FlatParameters) -> int:
    """Total numbers in a header to or from a server."""
    return FIELDS + STALENESS_BINS + len(flat)


def snapshot_file(folder: Path, number: int) -> Path:
    """The file from which a restarted server restores its state."""
    return folder / f"shard_{number}.safetensors"


def marked_file(folder: Path, number: int) -> Path:
    return folder / f"shard_{number}_marked.safetensors"


class UpdateCounter:
    """Counts a shard's updates in memory that outlives its process, so that lost updates are known exactly."""

    def __init__(self, path: Path) -> None:
        with open(os.open(path, os.O_RDWR | os.O_CREAT), "r+b") as file:
            file.truncate(16)
            self._memory = mmap.mmap(file.fileno(), 16)

    def get(self) -> tuple[int, int]:
        """Number of updates, and number of starts of the server."""
        return struct.unpack("qq", self._memory[:16])

    def set(self, updates: int, starts: int) -> None:
        self._memory[:16] = struct.pack("qq", updates, starts)


class ServerProcess:
    """Serves one shard until it receives `Op.END`."""

    def __init__(
        self,
        store: SharedStore,
        number: int,
        shard: ParameterShard,
        flat: FlatParameters,
        folder: Path,
        snapshot_every_steps: int,
    ) -> None:
        """
        Args:
            store: where the processes of this training find each other.
            number: number of this server.
            shard: its part of the weights.
            flat: the parameters of the whole model as one vector.
            folder: holds its snapshots; all nodes see it.
            snapshot_every_steps: the most updates that may be lost.
        """
        self._store, self._number, self._shard, self._flat = store, number, shard, flat
        self._folder, self._snapshot_every_steps = folder, snapshot_every_steps
        self._lock = threading.Condition()
        self._is_over = False
        self._count = UpdateCounter(folder / f"shard_{number}.count")
        self._marked_snapshot: ShardSnapshot | None = None
        self._restore()
        self._durable, self._writing = self._shard.version, False
        self._reset_stats()

    def _restore(self) -> None:
        """Continue from the last snapshot of a server of this number that died."""
        updates, starts = self._count.get()
        path = snapshot_file(self._folder, self._number)
        if starts and path.exists():
            self._shard.restore(ShardSnapshot.read(path))
            self._shard.lost = updates - self._shard.version
        elif starts == 0:
            self._shard.take_snapshot().write(path)
        self._starts = starts + 1
        self._count.set(self._shard.version, self._starts)
        self._marked_snapshot = self._shard.take_snapshot()

    def run(self) -> None:
        """Serve until `Op.END` arrives.

        Raises:
            Closed: the training is over.
        """
        name = f"server/{self._number}"
        listener = Listener(self._store, f"{name}/{self._starts}", header_size(self._flat))
        self._store.set(name, str(self._starts))
        while not self._is_over:
            ticket = listener.next_ticket()
            if ticket is None:
                time.sleep(ACCEPT_EVERY_S)
            else:
                threading.Thread(target=self._serve, args=(listener, ticket), daemon=True).start()

    def _serve(self, listener: Listener, ticket: str) -> None:
        """Serve one connection until it closes."""
        try:
            connection = listener.accept(ticket)
            weights_copy, gradient = torch.empty_like(self._shard.weights), torch.empty_like(self._shard.weights)
            buffers = torch.empty_like(self._shard.buffers)
            while True:
                request = connection.receive()
                op = Op(int(request[0]))
                if op is Op.END:
                    self._is_over = True
                    connection.send([op])
                    return
                if op is Op.PULL:
                    self._pull(connection, weights_copy, buffers)
                elif op is Op.PUSH:
                    # A gathered gradient is kept until its round is complete.
                    buffer = gradient if self._shard.policy == "each" else torch.empty_like(gradient)
                    self._push(connection, request, buffer, weights_copy)
                else:
                    self._handle_control(connection, op)
        except Closed:
            return  # the process has exited; it may come back with another ticket

    def _pull(self, connection: Connection, weights_copy: Tensor, buffers: Tensor) -> None:
        with self._lock:
            weights_copy.copy_(self._shard.weights)  # so that all that is sent is of one version
            buffers.copy_(self._shard.buffers)
            version = self._shard.version
            self._pulled += weights_copy.nbytes
        connection.send([Op.PULL, self._starts, version], weights_copy, *self._buffers_for(buffers))

    def _buffers_for(self, buffers: Tensor) -> tuple[Tensor, ...]:
        """Only the first server sends and receives buffers."""
        return (buffers,) if self._number == 0 and len(buffers) else ()

    def _push(self, connection: Connection, request: list[float], gradient: Tensor, weights_copy: Tensor) -> None:
        buffers = torch.empty_like(self._shard.buffers)
        connection.read(gradient, *self._buffers_for(buffers))
        _, starts, version, chunk, update, leads = map(int, request[:6])
        present = request[FIELDS + STALENESS_BINS :]
        if starts != self._starts:  # computed on weights that this server never had
            connection.send([Op.PUSH, self._starts, self._shard.version, 0])
            return
        with self._lock:
            while self._shard.version - self._durable >= self._snapshot_every_steps:
                self._lock.wait()
            begin, before = time.perf_counter(), self._shard.version
            push = Push(chunk, update, version, gradient, present, weights_copy, buffers, bool(leads))
            accepted = self._shard.take(push)
            self._count.set(self._shard.version, self._starts)
            self._busy_s += time.perf_counter() - begin
            self._pushed += gradient.nbytes
            self._dropped += not accepted
            if self._shard.version > before:
                self._staleness[min(before - version, STALENESS_BINS - 1)] += 1
                self._snapshot_where_due()
            after = self._shard.version
        connection.send([Op.PUSH, self._starts, after, accepted])

    def _snapshot_where_due(self) -> None:
        """Start writing a copy half-way, so that an update rarely waits for the disk."""
        is_due = self._shard.version - self._durable >= max(1, self._snapshot_every_steps // 2)
        if is_due and not self._writing:
            self._writing = True
            threading.Thread(target=self._write, args=(self._shard.take_snapshot(),), daemon=True).start()

    def _write(self, snapshot: ShardSnapshot) -> None:
        try:
            snapshot.write(snapshot_file(self._folder, self._number))
        except OSError as err:
            print(f"OSError: the snapshot of server {self._number} cannot be written: {err.strerror}", flush=True)
            os._exit(1)  # it could not keep the bound on lost updates
        with self._lock:
            self._durable, self._writing = snapshot.version, False
            self._lock.notify_all()

    def _handle_control(self, connection: Connection, op: Op) -> None:
        """Handle an operation that only the coordinator requests."""
        if op is Op.STATS:
            self._send_stats(connection)
            return
        with self._lock:
            if op is Op.MARK:
                self._marked_snapshot = self._shard.take_snapshot()
            elif op is Op.RESTORE:
                while self._writing:
                    self._lock.wait()
                self._marked_snapshot = ShardSnapshot.read(snapshot_file(self._folder, self._number))
                self._shard.restore(self._marked_snapshot)
                self._durable = self._shard.version
                self._count.set(self._shard.version, self._starts)
            snapshot = self._marked_snapshot
        assert snapshot is not None
        if op is Op.WRITE:
            snapshot.write(marked_file(self._folder, self._number))
        tensors = (snapshot.weights, *self._buffers_for(snapshot.buffers)) if op is Op.MARK else ()
        connection.send([op, self._starts, snapshot.version], *tensors)

    def _reset_stats(self) -> None:
        self._busy_s, self._pushed, self._pulled, self._dropped, self._since = 0.0, 0, 0, 0, time.perf_counter()
        self._staleness = [0] * STALENESS_BINS

    def _send_stats(self, connection: Connection) -> None:
        """Send the statistics since the last request."""
        with self._lock:
            request = [
                Op.STATS, self._starts, self._shard.version, self._shard.lost, self._busy_s,
                time.perf_counter() - self._since, self._pushed, self._pulled, self._dropped,
            ]  # fmt: skip
            request += [*[0.0] * (FIELDS - len(request)), *self._staleness]
            self._reset_stats()
        connection.send(request)
