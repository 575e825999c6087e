"""The store where the ranks of a training find each other: torch's `Store`, behind a secret, without pickle.

torch's own `TCPStore` takes requests of everyone who can connect, and listens on all interfaces whatever address it is given
(torch 2.13, 2026-11-29).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch._C._distributed_c10d import Store
from torch.distributed import DistNetworkError, DistStoreError

from modules.parallel.base import Rank
from modules.parallel.handshake import LOOPBACK, Gate, connect, listen, make_secret

JOIN_TIMEOUT_S = 300.0
"""Time for rank 0 to open the store, including its imports on a cold file system."""
DEFAULT_TIMEOUT = timedelta(minutes=10)
"""For a value that another rank has to write."""
MAX_MESSAGE_BYTES = 1 << 24
_ANSWER_TIMEOUT_S = 600.0  # a dead rank 0 is noticed at once, one whose machine has lost its power after this time
_LENGTH = struct.Struct(">I")


def open_store(rank: Rank) -> SharedStore:
    """Open the store of a training; it lives as long as this process.

    Args:
        rank: rank 0. A ``file://`` rendezvous is a path on this machine; the store writes its port and a new secret next to it.
    """
    if rank.rendezvous.startswith("tcp://"):
        secret, fd = rank.secret, rank.listener
        listener = socket.create_server(_split(rank.rendezvous)) if fd is None else socket.socket(fileno=fd)
        return _serve(listener, secret)
    listener, secret = listen(LOOPBACK), make_secret()
    store = _serve(listener, secret)
    path = _address_file(rank.rendezvous)
    partial = path.with_suffix(".new")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump([listener.getsockname()[1], secret], file)
    partial.replace(path)
    return store


def _serve(listener: socket.socket, secret: str) -> SharedStore:
    Gate(listener, secret, _Server().serve)
    host, port = listener.getsockname()
    return SharedStore((LOOPBACK if host == "0.0.0.0" else host, port), secret)


def join_store(rank: Rank) -> SharedStore:
    """Connect to the store that rank 0 opens.

    Raises:
        DistNetworkError: rank 0 has not opened it in time.
    """
    deadline, problem = time.monotonic() + JOIN_TIMEOUT_S, "its file is missing"
    while time.monotonic() < deadline:
        try:
            if rank.rendezvous.startswith("tcp://"):
                address, secret = _split(rank.rendezvous), rank.secret
            else:
                port, secret = json.loads(_address_file(rank.rendezvous).read_text(encoding="utf-8"))
                address = (LOOPBACK, int(port))
            return SharedStore(address, secret, deadline - time.monotonic())
        except FileNotFoundError:
            time.sleep(0.01)
        except OSError as err:
            problem = str(err)
            time.sleep(0.1)
    raise DistNetworkError(f"rank 0 did not open the rendezvous {rank.rendezvous} in {JOIN_TIMEOUT_S:.0f} s: {problem}")


def _split(rendezvous: str) -> tuple[str, int]:
    host, _, port = rendezvous.removeprefix("tcp://").rpartition(":")
    return host, int(port)


def _address_file(rendezvous: str) -> Path:
    return Path(rendezvous.removeprefix("file://")).with_suffix(".address")


class SharedStore(Store):
    """A connection to the store. Calls that wait hold it, so threads that wait at the same time need one each.

    Keep the object while torch uses it: torch's C++ calls its methods, but does not keep it alive.
    """

    def __init__(self, address: tuple[str, int], secret: str, timeout_s: float = JOIN_TIMEOUT_S) -> None:
        super().__init__()
        self._clones: list[SharedStore] = []
        self._address, self._secret, self._lock = address, secret, threading.Lock()
        self._connection = connect(address, secret, timeout_s=max(1.0, timeout_s))

    def clone(self) -> SharedStore:
        """As `open_another`, for torch's C++: this object keeps the clone alive."""
        self._clones.append(self.open_another())
        return self._clones[-1]

    def open_another(self) -> SharedStore:
        """Open another connection to the same store.

        Raises:
            DistNetworkError: the process that holds it has ended.
        """
        try:
            return SharedStore(self._address, self._secret)
        except OSError as err:
            raise DistNetworkError(f"the process that holds the rendezvous has ended ({err})") from err

    def __del__(self) -> None:
        if hasattr(self, "_connection"):
            self._connection.close()

    def _call(self, operation: str, *args: Any, wait_s: float = 0.0) -> Any:
        try:
            with self._lock:
                self._connection.settimeout(_ANSWER_TIMEOUT_S + wait_s)
                _send(self._connection, [operation, *args])
                return _receive(self._connection)
        except (OSError, ValueError) as err:
            raise DistNetworkError(f"the process that holds the rendezvous has ended ({err})") from err

    def set(self, key: str, value: str | bytes) -> None:
        self._call("set", key, _to_text(value))

    def get(self, key: str) -> bytes:
        self.wait([key])
        return str(self._call("get", key)).encode("latin-1")

    def add(self, key: str, amount: int) -> int:
        return int(self._call("add", key, amount))

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes) -> bytes:
        return str(self._call("compare_set", key, _to_text(expected), _to_text(desired))).encode("latin-1")

    def check(self, keys: Sequence[str]) -> bool:
        return bool(self._call("wait", list(keys), 0.0))

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        seconds = (DEFAULT_TIMEOUT if timeout is None else timeout).total_seconds()
        if not self._call("wait", list(keys), seconds, wait_s=seconds):
            raise DistStoreError(f"no rank wrote {', '.join(map(str, keys))} in {seconds:.0f} s")

    def delete_key(self, key: str) -> bool:
        return bool(self._call("delete", key))

    def num_keys(self) -> int:
        return int(self._call("num_keys"))

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        return [self.get(key) for key in keys]

    def multi_set(self, keys: Sequence[str], values: Sequence[str | bytes]) -> None:
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)

    def has_extended_api(self) -> bool:
        return False

    def queue_push(self, key: str, value: str | bytes) -> None:
        self._call("push", key, _to_text(value))

    def queue_pop(self, key: str) -> str | None:  # type: ignore[override]
        """Take the oldest text of a queue; None if it is empty."""
        value = self._call("pop", key)
        return None if value is None else str(value)


class _Server:
    """The values of a store. One thread serves each connection."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._queues: dict[str, deque[str]] = defaultdict(deque)
        self._change = threading.Condition()

    def serve(self, connection: socket.socket, number: int) -> None:
        """Answer requests until the other side disconnects."""
        with connection, contextlib.suppress(OSError, ValueError, KeyError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                operation, *args = _receive(connection)
                _send(connection, self._answer(operation, args))

    def _answer(self, operation: str, args: list[Any]) -> Any:
        values = self._values
        with self._change:
            match operation, args:
                case "wait", [keys, seconds]:
                    return self._change.wait_for(lambda: all(key in values for key in keys), seconds)
                case "get", [key]:
                    return values[key]
                case "num_keys", []:
                    return len(values)
                case "pop", [key]:
                    return self._queues[key].popleft() if self._queues[key] else None
                case "delete", [key]:
                    return values.pop(key, None) is not None
                case "set", [key, value]:
                    values[key] = value
                case "push", [key, value]:
                    self._queues[key].append(value)
                case "add", [key, amount]:
                    values[key] = str(int(values.get(key, "0")) + amount)
                case "compare_set", [key, expected, desired]:
                    if values.get(key, "") == expected:
                        values[key] = desired
                    return values.get(key, expected)
                case _:
                    raise ValueError(f"unknown request {operation!r}")
            self._change.notify_all()
            return values.get(args[0])


def _to_text(value: str | bytes) -> str:
    """Make text of bytes, one character per byte: JSON has no bytes."""
    return (value.encode() if isinstance(value, str) else bytes(value)).decode("latin-1")


def _send(connection: socket.socket, message: Any) -> None:
    data = json.dumps(message).encode()
    connection.sendall(_LENGTH.pack(len(data)) + data)


def _receive(connection: socket.socket) -> Any:
    (length,) = _LENGTH.unpack(_read(connection, _LENGTH.size))
    if length > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {length:,} bytes; the limit is {MAX_MESSAGE_BYTES:,}")
    return json.loads(_read(connection, length))


def _read(connection: socket.socket, num_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < num_bytes:
        part = connection.recv(min(1 << 16, num_bytes - len(data)))
        if not part:
            raise ConnectionError("the connection is closed")
        data += part
    return bytes(data)
