"""The process of a parameter server: a thread for each that is joined to it, and one shard between them."""

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
from torch._C._distributed_c10d import Store

from modules.parallel.asynchronous.flat_parameters import FlatParameters
from modules.parallel.asynchronous.server_shard import Frozen, ParameterShard, Push
from modules.parallel.asynchronous.transport import Closed, Connection, Listener

FIELDS = 24
"""Numbers of a header to and from a server, before those of the parameters that have a gradient."""
KNOCKS_EVERY_S = 0.01
STALENESS_BINS = 64


class Op(IntEnum):
    """What a server is asked."""

    PULL = 1
    PUSH = 2
    MARK = 3
    """Keep a copy of all, and send its weights."""
    WRITE = 4
    """Write what was marked into the marked file."""
    RESTORE = 5
    """Become what lies in the snapshot's file."""
    STATS = 6
    END = 7


def header_size(flat: FlatParameters) -> int:
    """Numbers of a header to or from a server."""
    return FIELDS + STALENESS_BINS + len(flat)


def snapshot_file(folder: Path, number: int) -> Path:
    """Where a server keeps what it would be restored from."""
    return folder / f"shard_{number}.safetensors"


def marked_file(folder: Path, number: int) -> Path:
    return folder / f"shard_{number}_marked.safetensors"


class Count:
    """How many updates a shard has seen, in memory that outlives its process: so a loss is known to the last update."""

    def __init__(self, path: Path) -> None:
        with open(os.open(path, os.O_RDWR | os.O_CREAT), "r+b") as file:
            file.truncate(16)
            self._memory = mmap.mmap(file.fileno(), 16)

    def get(self) -> tuple[int, int]:
        """Updates, and starts of the server."""
        return struct.unpack("qq", self._memory[:16])

    def set(self, updates: int, starts: int) -> None:
        self._memory[:16] = struct.pack("qq", updates, starts)


class ServerProcess:
    """Serves one shard until it is told to end."""

    def __init__(
        self,
        store: Store,
        number: int,
        shard: ParameterShard,
        flat: FlatParameters,
        folder: Path,
        snapshot_every_steps: int,
    ) -> None:
        """
        Args:
            store: of the meeting.
            number: of the server.
            shard: its part of the weights.
            flat: of the whole model.
            folder: where it keeps its snapshots; all nodes see it.
            snapshot_every_steps: updates that may be lost at most.
        """
        self._store, self._number, self._shard, self._flat = store, number, shard, flat
        self._folder, self._snapshot_every_steps = folder, snapshot_every_steps
        self._lock = threading.Condition()
        self._is_over = False
        self._count = Count(folder / f"shard_{number}.count")
        self._marked: Frozen | None = None
        self._restore()
        self._durable, self._writing = self._shard.version, False
        self._forget()

    def _restore(self) -> None:
        """Go on where a server of this number that died had its last snapshot."""
        updates, starts = self._count.get()
        path = snapshot_file(self._folder, self._number)
        if starts and path.exists():
            self._shard.thaw(Frozen.read(path))
            self._shard.lost = updates - self._shard.version
        elif starts == 0:
            self._shard.freeze().write(path)
        self._starts = starts + 1
        self._count.set(self._shard.version, self._starts)
        self._marked = self._shard.freeze()

    def run(self) -> None:
        """Serve; returns once it was told to end.

        Raises:
            Closed: the meeting is over.
        """
        name = f"server/{self._number}"
        door = Listener(self._store, f"{name}/{self._starts}", header_size(self._flat))
        self._store.set(name, str(self._starts))
        while not self._is_over:
            ticket = door.waiting()
            if ticket is None:
                time.sleep(KNOCKS_EVERY_S)
            else:
                threading.Thread(target=self._serve, args=(door, ticket), daemon=True).start()

    def _serve(self, door: Listener, ticket: str) -> None:
        """One connection's life."""
        try:
            wire = door.let_in(ticket)
            held, gradient = torch.empty_like(self._shard.weights), torch.empty_like(self._shard.weights)
            buffers = torch.empty_like(self._shard.buffers)
            while True:
                told = wire.receive()
                op = Op(int(told[0]))
                if op is Op.END:
                    self._is_over = True
                    wire.send([op])
                    return
                if op is Op.PULL:
                    self._pull(wire, held, buffers)
                elif op is Op.PUSH:
                    # A gradient that is gathered stays until its round is whole.
                    own = gradient if self._shard.policy == "each" else torch.empty_like(gradient)
                    self._push(wire, told, own, held)
                else:
                    self._answer(wire, op)
        except Closed:
            return  # whoever it was has gone, and may come back by another ticket

    def _pull(self, wire: Connection, held: Tensor, buffers: Tensor) -> None:
        with self._lock:
            held.copy_(self._shard.weights)  # what is sent is of one version
            buffers.copy_(self._shard.buffers)
            version = self._shard.version
            self._pulled += held.nbytes
        wire.send([Op.PULL, self._starts, version], held, *self._first(buffers))

    def _first(self, buffers: Tensor) -> tuple[Tensor, ...]:
        """Buffers travel to and from the first server alone."""
        return (buffers,) if self._number == 0 and len(buffers) else ()

    def _push(self, wire: Connection, told: list[float], gradient: Tensor, held: Tensor) -> None:
        buffers = torch.empty_like(self._shard.buffers)
        wire.read(gradient, *self._first(buffers))
        _, starts, version, chunk, update, leads = map(int, told[:6])
        present = told[FIELDS + STALENESS_BINS :]
        if starts != self._starts:  # computed on weights that this one never had
            wire.send([Op.PUSH, self._starts, self._shard.version, 0])
            return
        with self._lock:
            while self._shard.version - self._durable >= self._snapshot_every_steps:
                self._lock.wait()
            begin, before = time.perf_counter(), self._shard.version
            push = Push(chunk, update, version, gradient, present, held, buffers, bool(leads))
            accepted = self._shard.take(push)
            self._count.set(self._shard.version, self._starts)
            self._busy_s += time.perf_counter() - begin
            self._pushed += gradient.nbytes
            self._dropped += not accepted
            if self._shard.version > before:
                self._staleness[min(before - version, STALENESS_BINS - 1)] += 1
                self._snapshot_where_due()
            after = self._shard.version
        wire.send([Op.PUSH, self._starts, after, accepted])

    def _snapshot_where_due(self) -> None:
        """Begin to write a copy half-way, so that with luck no update has to wait for the disk."""
        is_due = self._shard.version - self._durable >= max(1, self._snapshot_every_steps // 2)
        if is_due and not self._writing:
            self._writing = True
            threading.Thread(target=self._write, args=(self._shard.freeze(),), daemon=True).start()

    def _write(self, frozen: Frozen) -> None:
        try:
            frozen.write(snapshot_file(self._folder, self._number))
        except OSError as err:
            print(f"OSError: the snapshot of server {self._number} cannot be written: {err.strerror}", flush=True)
            os._exit(1)  # it could not keep its word on what may be lost
        with self._lock:
            self._durable, self._writing = frozen.version, False
            self._lock.notify_all()

    def _answer(self, wire: Connection, op: Op) -> None:
        """What only the coordinator asks."""
        if op is Op.STATS:
            self._tell_stats(wire)
            return
        with self._lock:
            if op is Op.MARK:
                self._marked = self._shard.freeze()
            elif op is Op.RESTORE:
                while self._writing:
                    self._lock.wait()
                self._marked = Frozen.read(snapshot_file(self._folder, self._number))
                self._shard.thaw(self._marked)
                self._durable = self._shard.version
                self._count.set(self._shard.version, self._starts)
            marked = self._marked
        assert marked is not None
        if op is Op.WRITE:
            marked.write(marked_file(self._folder, self._number))
        tensors = (marked.weights, *self._first(marked.buffers)) if op is Op.MARK else ()
        wire.send([op, self._starts, marked.version], *tensors)

    def _forget(self) -> None:
        self._busy_s, self._pushed, self._pulled, self._dropped, self._since = 0.0, 0, 0, 0, time.perf_counter()
        self._staleness = [0] * STALENESS_BINS

    def _tell_stats(self, wire: Connection) -> None:
        """What was since it was asked last."""
        with self._lock:
            told = [
                Op.STATS, self._starts, self._shard.version, self._shard.lost, self._busy_s,
                time.perf_counter() - self._since, self._pushed, self._pulled, self._dropped,
            ]  # fmt: skip
            told += [*[0.0] * (FIELDS - len(told)), *self._staleness]
            self._forget()
        wire.send(told)
