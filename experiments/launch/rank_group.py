"""The ranks of a worker that run a trial together, on one or several nodes: rank 0 leads, the others follow."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from experiments.core.atomic import write_text
from experiments.launch.forked_process import ForkedRank
from experiments.launch.wakeup import SignalWaiter
from experiments.trial.trial import Trial
from launchers.base import RankPlacement
from launchers.processes.exit_cause import GRACE_S, FirstFailure
from modules.parallel.base import Rank
from modules.parallel.handshake import Gate, connect, listen, make_secret

JOIN_TIMEOUT_S = 300.0
"""How long the ranks of a group may take to start, with imports from a cold file system."""

MAX_LINE_BYTES = 1 << 20


class RankGroupError(Exception):
    """The ranks of a group did not connect in time."""


class LineConnection:
    """JSON lines over a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._rest = b""
        self.is_auto = True

    def fileno(self) -> int:
        return self.connection.fileno()

    def send(self, message: dict[str, Any]) -> None:
        try:
            self.connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.is_auto = False

    def receive(self) -> list[dict[str, Any]]:
        """Return the complete lines received so far; if the other side has closed, `is_auto` becomes False."""
        try:
            data = self.connection.recv(1 << 16)
        except OSError:
            data = b""
        self.is_auto = bool(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            self.is_auto, lines = False, []
        return [json.loads(line) for line in lines]


class RankGroup:
    """The leader's side: runs one attempt at a time on all ranks."""

    def __init__(self, placement: RankPlacement, folder: Path, waiter: SignalWaiter) -> None:
        """Wait for the followers to connect.

        Args:
            placement: of rank 0.
            folder: the worker's; all nodes see it.
            waiter: of this process.

        Raises:
            RankGroupError: a follower did not connect in time.
        """
        self.placement, self.waiter = placement, waiter
        self._followers: dict[int, LineConnection] = {}
        self._codes: dict[int, int] = {}
        self._child: ForkedRank | None = None
        self._failure = FirstFailure()
        self._secret = make_secret()  # other users of the network can reach the ports
        if placement.world_size > 1:
            self._accept_followers(folder)

    def _accept_followers(self, folder: Path) -> None:
        connected: SimpleQueue[tuple[socket.socket, int]] = SimpleQueue()
        listener = listen(self.placement.leader_address)
        gate = Gate(listener, self._secret, lambda connection, rank: connected.put((connection, rank)))
        try:
            port = listener.getsockname()[1]
            address = {"address": self.placement.leader_address, "port": port, "token": self._secret}
            write_text(leader_file(folder, self.placement), json.dumps(address) + "\n", mode=0o600)
            deadline = time.monotonic() + JOIN_TIMEOUT_S
            ranks = range(1, self.placement.world_size)
            while len(self._followers) < len(ranks):
                if time.monotonic() > deadline or self.waiter.stop_signal:
                    missing = sorted({*ranks} - {*self._followers})
                    raise RankGroupError(
                        f"ranks {missing} have not connected to {self.placement.leader_address} in {JOIN_TIMEOUT_S:.0f} s"
                    )
                with contextlib.suppress(Empty):
                    connection, rank = connected.get(timeout=1.0)
                    if rank in ranks:
                        self._followers[rank] = LineConnection(connection)
        finally:
            gate.close()

    def start(self, trial: Trial, attempt: int, trust: tuple[str, ...]) -> None:
        """Start an attempt on every rank."""
        self._codes, self._failure = {}, FirstFailure()
        rank = Rank(0, 0, self.placement.local_world_size)
        if self.placement.world_size == 1:
            self._child = ForkedRank(trial, attempt, trust, rank, self.waiter)
            return
        with listen(
            self.placement.leader_address
        ) as listener:  # the child inherits it, so no other process can take the port
            rendezvous = f"tcp://{self.placement.leader_address}:{listener.getsockname()[1]}"
            rank = Rank(0, 0, self.placement.local_world_size, rendezvous, listener.fileno(), self._secret)
            self._child = ForkedRank(trial, attempt, trust, rank, self.waiter)
        assignment = {"folder": str(trial.folder), "attempt": attempt, "trust": list(trust), "rendezvous": rendezvous}
        for follower in self._followers.values():
            follower.send(assignment)

    def wait(self, timeout_s: float) -> int | None:
        """Wait for a message; once all ranks have ended, return the exit code of the rank that decides."""
        assert self._child is not None
        ready = self.waiter.wait(timeout_s, [each.fileno() for each in self._followers.values() if each.is_auto])
        for rank, follower in self._followers.items():
            for message in follower.receive() if follower.is_auto and follower.fileno() in ready else ():
                self._end(rank, message["ended"])
            if not follower.is_auto:
                self._end(rank, -signal.SIGKILL)  # its process has ended
        if (code := self._child.poll()) is not None:
            self._end(0, code)
        if len(self._codes) < self.placement.world_size:
            if self._failure.is_overdue:
                self.signal(signal.SIGKILL)
            return None
        return 0 if self._failure.rank is None else self._codes[self._failure.rank]

    def _end(self, rank: int, code: int) -> None:
        if rank in self._codes:
            return
        self._codes[rank] = code
        self._failure.add(rank, code)

    def signal(self, number: int) -> None:
        """Send a signal to all ranks."""
        self._failure.killed_by_us |= number == signal.SIGKILL
        if self._child is not None:
            self._child.signal(number)
        for follower in self._followers.values():
            follower.send({"signal": number})

    @property
    def failed_rank(self) -> int | None:
        """The rank that decides how the attempt ended."""
        return self._failure.rank

    @property
    def is_complete(self) -> bool:
        """Whether all ranks are still connected and can run another attempt."""
        return all(follower.is_auto for follower in self._followers.values())

    def close(self) -> None:
        """Disconnect the followers, which then exit."""
        for follower in self._followers.values():
            follower.connection.close()


def leader_file(folder: Path, placement: RankPlacement) -> Path:
    """Return the path of the file in which the leader of a group publishes its address."""
    return folder / f"group_{placement.group}.json"


def run_follower(placement: RankPlacement, folder: Path, waiter: SignalWaiter) -> None:
    """Run a follower: start and signal its rank as the leader says, until the leader disconnects.

    Raises:
        RankGroupError: the leader cannot be reached.
    """
    leader, secret = _connect(placement, folder, waiter)
    child: ForkedRank | None = None
    is_stopping = False
    while leader.is_auto or child is not None:
        ready = waiter.wait(1.0, [leader.fileno()] if leader.is_auto else [])
        for message in leader.receive() if ready else ():
            if "signal" in message:
                if child is not None:
                    child.signal(message["signal"])
            else:
                rank = Rank(
                    placement.rank, placement.local_rank, placement.local_world_size, message["rendezvous"], secret=secret
                )  # fmt: skip
                trial, trust = Trial(Path(message["folder"])), tuple(message["trust"])
                child = ForkedRank(trial, message["attempt"], trust, rank, waiter)
                is_stopping = False
        if child is not None and (waiter.stop_signal or not leader.is_auto) and not is_stopping:
            child.signal(signal.SIGTERM)
            is_stopping, stopped_at = True, time.monotonic()
        if child is not None and not leader.is_auto and is_stopping and time.monotonic() - stopped_at > GRACE_S:
            child.signal(signal.SIGKILL)  # the other ranks have ended, so its current step cannot end
        if child is not None and (code := child.poll()) is not None:
            leader.send({"ended": code})
            child = None


def _connect(placement: RankPlacement, folder: Path, waiter: SignalWaiter) -> tuple[LineConnection, str]:
    """Connect to the leader; return the connection and the group's secret."""
    deadline = time.monotonic() + JOIN_TIMEOUT_S
    while time.monotonic() < deadline and not waiter.stop_signal:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            address = json.loads(
                leader_file(folder, placement).read_text(encoding="utf-8")
            )  # until the leader writes it, of an earlier job
            connection = connect((address["address"], address["port"]), address["token"], placement.rank)
            return LineConnection(connection), address["token"]
        waiter.wait(0.1)
    raise RankGroupError(f"rank {placement.rank} cannot reach the leader of its group: {placement}")
