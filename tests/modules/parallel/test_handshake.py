"""Only processes that know the secret of a training connect; strangers cannot hold the others up."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from queue import SimpleQueue
from types import SimpleNamespace
from typing import cast

import pytest

from modules.parallel import handshake
from modules.parallel.handshake import Gate, StrangerError, check, connect, listen, make_secret
from tests.support.waiting import PATIENCE_S

SECRET = make_secret()


@contextmanager
def gate(timeout_s: float = PATIENCE_S) -> Iterator[tuple[Gate, tuple[str, int], SimpleQueue[int]]]:
    """A gate on this machine, its address, and the numbers of the processes that it has passed on."""
    numbers: SimpleQueue[int] = SimpleQueue()
    listener = listen("127.0.0.1")
    address = listener.getsockname()

    def pass_on(connection: socket.socket, number: int) -> None:
        numbers.put(number)
        connection.close()

    guard = Gate(listener, SECRET, pass_on, timeout_s)
    try:
        yield guard, address, numbers
    finally:
        guard.close()


def test_both_sides_prove_that_they_know_the_secret() -> None:
    with gate() as (_, address, numbers):
        assert address[0] == "127.0.0.1"
        connect(address, SECRET, 7).close()
        assert numbers.get(timeout=PATIENCE_S) == 7
        with pytest.raises(StrangerError):
            connect(address, make_secret())
        assert numbers.empty()
    with pytest.raises(OSError, match="refused"):
        connect(address, SECRET)


@pytest.mark.parametrize(
    "said",
    [b"", b"x", b"\0" * 68, b"GET / HTTP/1.1\r\n\r\n" * 99, b"\xff" * 4 + b"A" * 1000, b'{"token": null}\n', os.urandom(100)],
    ids=["nothing", "a byte", "zeros", "http", "a huge length", "json", "noise"],
)  # fmt: skip
@pytest.mark.parametrize("closes", [True, False], ids=["and closes", "and stays"])
def test_a_stranger_is_dropped_and_does_not_hold_up_a_rank(said: bytes, closes: bool) -> None:
    with gate(timeout_s=0.3) as (guard, address, numbers), closing(socket.create_connection(address)) as stranger:
        assert len(stranger.recv(32)) == 32  # the stranger is accepted
        guard._timeout_s = PATIENCE_S  # for the rank
        stranger.sendall(said)
        with contextlib.suppress(OSError):  # the gate may already have closed it
            if closes:
                stranger.shutdown(socket.SHUT_WR)
        connect(address, SECRET, 3).close()
        assert numbers.get(timeout=PATIENCE_S) == 3
        with contextlib.suppress(ConnectionError):
            while stranger.recv(1024):  # the gate closes it
                pass
        assert numbers.empty()


def test_a_slow_stranger_has_one_deadline_for_all_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 4))  # seconds; each byte arrives before the time-out of one call
    monkeypatch.setattr(handshake, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    slow = SimpleNamespace(settimeout=lambda seconds: None, sendall=len, recv=lambda num_bytes: b"x")
    with pytest.raises(StrangerError, match="did not finish"):
        check(cast("socket.socket", slow), SECRET)
    assert next(clock) <= 20


def test_many_silent_strangers_make_room_for_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "MAX_WAITING", 4)
    with gate() as (_, address, numbers), contextlib.ExitStack() as stack:
        silent = [stack.enter_context(closing(socket.create_connection(address))) for _ in range(12)]
        connect(address, SECRET, 1).close()
        assert numbers.get(timeout=PATIENCE_S) == 1
        silent[0].settimeout(PATIENCE_S)
        assert len(silent[0].recv(64)) == 32
        assert silent[0].recv(64) == b""  # closed for a later one
        assert threading.active_count() < 20


def test_an_answer_cannot_be_used_again_or_turned_round() -> None:
    with gate() as (_, address, numbers), closing(socket.create_connection(address)) as stranger:
        challenge = stranger.recv(32)
        proof = io.BytesIO(
            challenge + bytes(32)
        )  # an impostor listens, and passes on the challenge of the real listener
        said: list[bytes] = []
        rank = SimpleNamespace(settimeout=lambda seconds: None, sendall=said.append, recv=proof.read)
        with pytest.raises(StrangerError, match="does not know the secret"):
            handshake.greet(cast("socket.socket", rank), SECRET, 1)
        with closing(socket.create_connection(address)) as other:
            other.recv(32)
            other.sendall(said[0])  # a proof for another connection
            assert other.recv(64) == b""
        assert numbers.empty()


def test_a_gate_without_a_secret_is_refused() -> None:
    with listen("127.0.0.1") as listener, pytest.raises(ValueError, match="the secret of a training is empty"):
        Gate(listener, "", lambda connection, number: None)
