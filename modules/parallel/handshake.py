"""Two processes prove to each other over a new connection that they know the same secret. The secret itself is never sent.

Each side answers a random challenge with an HMAC (RFC 2104) of it. Later messages are neither signed nor encrypted, so this keeps
out strangers that can connect, and not those that can change packets between two nodes.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

TIMEOUT_S = 10.0
"""For the other side's part of a handshake, all its bytes together; it takes 1 ms on one machine."""
MAX_WAITING = 256
"""Connections in a handshake; the oldest is closed for the next one."""
BACKLOG = 1024
LOOPBACK = "127.0.0.1"
_NONCE_BYTES, _NUMBER_BYTES = 32, 4
_MAC_BYTES = hashlib.sha256().digest_size


class StrangerError(ConnectionError):
    """The other side does not know the secret, or did not answer in time."""


def make_secret() -> str:
    """Make a new secret of 256 random bits, as text."""
    return secrets.token_hex(32)


def listen(address: str) -> socket.socket:
    """Listen on a free port of one interface.

    Args:
        address: name or IPv4 address of this machine. If its name stands for the loopback interface here, as on some
            clusters, other nodes could not connect, and the socket listens on all interfaces.
    """
    host = address
    if address != LOOPBACK:
        with contextlib.suppress(OSError):
            host = socket.gethostbyname(address)
        host = "" if host.startswith("127.") else host
    try:
        return socket.create_server((host, 0), backlog=BACKLOG)
    except OSError:  # the name belongs to an interface that this process cannot use
        if address == LOOPBACK:
            raise
        return socket.create_server(("", 0), backlog=BACKLOG)


def greet(connection: socket.socket, secret: str, number: int = 0, timeout_s: float = TIMEOUT_S) -> None:
    """Prove to a listener that this side knows the secret, and check that it does too.

    Args:
        connection: connected.
        secret: of both sides.
        number: tells the listener who this is, such as a rank.
        timeout_s: for the listener's part.

    Raises:
        StrangerError: it does not know the secret, or did not answer in time.
    """
    deadline = time.monotonic() + timeout_s
    theirs, own = _read(connection, _NONCE_BYTES, deadline), secrets.token_bytes(_NONCE_BYTES)
    sender = number.to_bytes(_NUMBER_BYTES, "big")
    _send(connection, own + sender + _sign(secret, b"connects", theirs, own, sender))
    answer = _read(connection, _MAC_BYTES, deadline)
    if not hmac.compare_digest(answer, _sign(secret, b"listens", own, theirs)):
        raise StrangerError("the listener does not know the secret of this training")
    connection.settimeout(None)


def check(connection: socket.socket, secret: str, timeout_s: float = TIMEOUT_S) -> int:
    """Return the number of a process that has connected, once it has proved that it knows the secret.

    Raises:
        StrangerError: it does not know the secret, or did not answer in time.
    """
    deadline = time.monotonic() + timeout_s
    own = secrets.token_bytes(_NONCE_BYTES)
    _send(connection, own)
    answer = _read(connection, _NONCE_BYTES + _NUMBER_BYTES + _MAC_BYTES, deadline)
    theirs, sender = answer[:_NONCE_BYTES], answer[_NONCE_BYTES:-_MAC_BYTES]
    if not hmac.compare_digest(answer[-_MAC_BYTES:], _sign(secret, b"connects", own, theirs, sender)):
        raise StrangerError("a process that connected does not know the secret of this training")
    _send(connection, _sign(secret, b"listens", theirs, own))
    connection.settimeout(None)
    return int.from_bytes(sender, "big")


def _sign(secret: str, *parts: bytes) -> bytes:
    return hmac.new(secret.encode(), b"".join(parts), hashlib.sha256).digest()


def _send(connection: socket.socket, message: bytes) -> None:
    try:
        connection.settimeout(TIMEOUT_S)
        connection.sendall(message)
    except OSError as err:
        raise StrangerError(f"the other side has closed the connection ({err})") from err


def _read(connection: socket.socket, num_bytes: int, deadline: float) -> bytes:
    """Read exactly so many bytes; the deadline holds for all of them, however slowly they arrive."""
    data = b""
    while len(data) < num_bytes:
        try:
            connection.settimeout(max(1e-3, deadline - time.monotonic()))
            part = connection.recv(num_bytes - len(data))
        except OSError as err:
            raise StrangerError(f"the other side did not finish its handshake ({err})") from err
        if not part or time.monotonic() > deadline:
            raise StrangerError("the other side did not finish its handshake")
        data += part
    return data


class Gate:
    """Accepts connections in the background and passes on those that know the secret. Strangers cannot hold it up."""

    def __init__(
        self, listener: socket.socket, secret: str, on_connect: Callable[[socket.socket, int], None],
        timeout_s: float = TIMEOUT_S,
    ) -> None:  # fmt: skip
        """
        Args:
            listener: listening; the gate closes it.
            secret: that the other side must know.
            on_connect: called with each connection and its number, in a thread of its own.
            timeout_s: for a handshake.

        Raises:
            ValueError: the secret is empty.
        """
        if not secret:
            raise ValueError(
                "the secret of a training is empty, so every process could connect; give all ranks one secret"
            )
        self._listener, self._secret, self._on_connect, self._timeout_s = listener, secret, on_connect, timeout_s
        self._waiting: deque[socket.socket] = deque()
        self._is_closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._is_closed:
                    return
                time.sleep(0.05)  # no descriptor is free
                continue
            self._waiting.append(connection)
            if len(self._waiting) > MAX_WAITING:
                _shut(self._waiting.popleft())
            try:
                threading.Thread(target=self._check, args=(connection,), daemon=True).start()
            except RuntimeError:  # the process may start no more threads; the rank connects again
                self._waiting.remove(connection)
                connection.close()

    def _check(self, connection: socket.socket) -> None:
        try:
            number = check(connection, self._secret, self._timeout_s)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except OSError:
            connection.close()
            return
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(connection)
        self._on_connect(connection, number)

    def close(self) -> None:
        """Stop accepting; connections that were passed on stay open."""
        self._is_closed = True
        _shut(self._listener)
        self._listener.close()
        for connection in list(self._waiting):
            _shut(connection)


def _shut(connection: socket.socket) -> None:
    """End what another thread waits for on a socket."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def connect(address: tuple[str, int], secret: str, number: int = 0, timeout_s: float = TIMEOUT_S) -> socket.socket:
    """Connect to a process that listens behind a `Gate`.

    Raises:
        OSError: no process listens there, or it does not know the secret.
    """
    connection = socket.create_connection(address, timeout=timeout_s)
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        greet(connection, secret, number, timeout_s)
    except BaseException:
        connection.close()
        raise
    return connection
