"""The ranks of a crew: warm processes, perhaps on several nodes, of which the first leads and the others follow."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.core.atomic import write_text
from experiments.launch.forked_process import ForkedRank
from experiments.launch.wakeup import SignalWaiter
from experiments.trial.trial import Trial
from launchers.base import RankPlacement
from launchers.processes.exit_cause import GRACE_S, FirstFailure
from modules.parallel.base import Rank

JOIN_S = 300.0
"""How long the ranks of a crew may take to start, imports on a cold file system among it."""


class RankGroupError(Exception):
    """The ranks of a crew do not come together."""


class LineConnection:
    """JSON lines over a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._rest = b""
        self.is_open = True

    def fileno(self) -> int:
        return self.connection.fileno()

    def send(self, message: dict[str, Any]) -> None:
        try:
            self.connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.is_open = False

    def receive(self) -> list[dict[str, Any]]:
        """The whole lines that have come; empty and not `is_open` any more where the other side has gone."""
        try:
            data = self.connection.recv(1 << 16)
        except OSError:
            data = b""
        self.is_open = bool(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


class RankGroup:
    """The leader's side: one attempt at a time on all ranks."""

    def __init__(self, seat: RankPlacement, folder: Path, bell: SignalWaiter) -> None:
        """Meet the followers.

        Args:
            seat: of the first rank.
            folder: the worker's, which all nodes see.
            bell: this process's.

        Raises:
            CrewError: they have not come.
        """
        self.seat, self.bell = seat, bell
        self._lines: dict[int, LineConnection] = {}
        self._codes: dict[int, int] = {}
        self._child: ForkedRank | None = None
        self._blame = FirstFailure()
        if seat.world_size > 1:
            self._gather(folder)

    def _gather(self, folder: Path) -> None:
        with socket.create_server(("", 0)) as server:
            word = secrets.token_hex(16)  # the port may be found by strangers
            place = {"address": self.seat.leader_address, "port": server.getsockname()[1], "word": word}
            write_text(meeting_file(folder, self.seat), json.dumps(place) + "\n")
            os.chmod(meeting_file(folder, self.seat), 0o600)
            server.settimeout(1.0)
            deadline = time.monotonic() + JOIN_S
            while len(self._lines) < self.seat.world_size - 1:
                if time.monotonic() > deadline or self.bell.asked_to_leave:
                    missing = sorted({*range(1, self.seat.world_size)} - {*self._lines})
                    raise RankGroupError(
                        f"ranks {missing} have not come to {self.seat.leader_address} in {JOIN_S:.0f} s"
                    )
                with contextlib.suppress(TimeoutError):
                    connection, _ = server.accept()
                    line = LineConnection(connection)
                    for hello in line.receive():
                        if hello.get("word") == word:
                            self._lines[hello["rank"]] = line

    def start(self, trial: Trial, attempt: int, trust: tuple[str, ...]) -> None:
        """Begin an attempt on every rank."""
        self._codes, self._blame = {}, FirstFailure()
        rank = Rank(0, 0, self.seat.local_world_size)
        if self.seat.world_size == 1:
            self._child = ForkedRank(trial, attempt, trust, rank, self.bell)
            return
        with socket.create_server(("", 0)) as listener:  # open until the child has it: nobody else gets the port
            meeting = f"tcp://{self.seat.leader_address}:{listener.getsockname()[1]}"
            rank = Rank(0, 0, self.seat.local_world_size, meeting, listener.fileno())
            self._child = ForkedRank(trial, attempt, trust, rank, self.bell)
        order = {"folder": str(trial.folder), "attempt": attempt, "trust": list(trust), "meeting": meeting}
        for line in self._lines.values():
            line.send(order)

    def wait(self, timeout_s: float) -> int | None:
        """Wait for news; the exit code of the rank that decides once all have ended."""
        assert self._child is not None
        ready = self.bell.wait(timeout_s, [line.fileno() for line in self._lines.values() if line.is_open])
        for rank, line in self._lines.items():
            for told in line.receive() if line.is_open and line.fileno() in ready else ():
                self._end(rank, told["ended"])
            if not line.is_open:
                self._end(rank, -signal.SIGKILL)  # its process has gone
        if (code := self._child.poll()) is not None:
            self._end(0, code)
        if len(self._codes) < self.seat.world_size:
            if self._blame.is_overdue:
                self.signal(signal.SIGKILL)
            return None
        return 0 if self._blame.rank is None else self._codes[self._blame.rank]

    def _end(self, rank: int, code: int) -> None:
        if rank in self._codes:
            return
        self._codes[rank] = code
        self._blame.add(rank, code)

    def signal(self, number: int) -> None:
        """Pass a signal to all ranks."""
        self._blame.killed_by_us |= number == signal.SIGKILL
        if self._child is not None:
            self._child.signal(number)
        for line in self._lines.values():
            line.send({"signal": number})

    @property
    def failed_rank(self) -> int | None:
        """The rank that decides how the attempt ended."""
        return self._blame.rank

    @property
    def is_whole(self) -> bool:
        """Whether all ranks can be told of another attempt."""
        return all(line.is_open for line in self._lines.values())

    def close(self) -> None:
        """Let the followers go."""
        for line in self._lines.values():
            line.connection.close()


def meeting_file(folder: Path, seat: RankPlacement) -> Path:
    """Where the leader of a crew writes how it is reached."""
    return folder / f"crew_{seat.group}.json"


def run_follower(seat: RankPlacement, folder: Path, bell: SignalWaiter) -> None:
    """A follower's life: it does what the leader says until that has gone.

    Raises:
        CrewError: there is no leader.
    """
    line = _join(seat, folder, bell)
    child: ForkedRank | None = None
    told_to_stop = False
    while line.is_open or child is not None:
        ready = bell.wait(1.0, [line.fileno()] if line.is_open else [])
        for order in line.receive() if ready else ():
            if "signal" in order:
                if child is not None:
                    child.signal(order["signal"])
            else:
                rank = Rank(seat.rank, seat.local_rank, seat.local_world_size, order["meeting"])
                child = ForkedRank(Trial(Path(order["folder"])), order["attempt"], tuple(order["trust"]), rank, bell)
                told_to_stop = False
        if child is not None and (bell.asked_to_leave or not line.is_open) and not told_to_stop:
            child.signal(signal.SIGTERM)
            told_to_stop, stopped_at = True, time.monotonic()
        if child is not None and not line.is_open and told_to_stop and time.monotonic() - stopped_at > GRACE_S:
            child.signal(signal.SIGKILL)  # the others have gone, and no step of it will end
        if child is not None and (code := child.poll()) is not None:
            line.send({"ended": code})
            child = None


def _join(seat: RankPlacement, folder: Path, bell: SignalWaiter) -> LineConnection:
    deadline = time.monotonic() + JOIN_S
    while time.monotonic() < deadline and not bell.asked_to_leave:
        with contextlib.suppress(OSError, ValueError):
            place = json.loads(meeting_file(folder, seat).read_text())
            line = LineConnection(socket.create_connection((place["address"], place["port"]), timeout=10))
            line.connection.settimeout(None)
            line.send({"rank": seat.rank, "word": place["word"]})
            return line
        bell.wait(0.1)
    raise RankGroupError(f"rank {seat.rank} found no leader of crew {seat.group}: {asdict(seat)}")
