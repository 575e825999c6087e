"""A real PostgreSQL of Debian's, for one test session: on the loopback interface, with a password, in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.stores import free_port
from tests.support.waiting import PATIENCE_S, wait_until

USER, PASSWORD = "lathe", "hunter2"
QUICK = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=32MB")
"""Settings of a database that nobody misses after a power cut."""


@dataclass(frozen=True)
class Postgres:
    """A server that takes connections."""

    port: int
    restart: Callable[[], None]
    """End every session, and serve the same databases again."""

    def uri(self, database: str) -> str:
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """An empty database; its name."""
        name = f"db_{uuid.uuid4().hex[:8]}"
        self.sql("postgres", f"create database {name}", is_told=False)
        return name

    def sql(self, database: str, query: str, *, is_told: bool = True) -> list[tuple[Any, ...]]:
        import psycopg

        with psycopg.connect(self.uri(database), autocommit=True, connect_timeout=20) as connection:
            answer = connection.execute(query)
            return answer.fetchall() if is_told else []


def binaries() -> Path:
    """Where Debian keeps PostgreSQL's commands; skips the test where it does not."""
    actual = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not actual:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    return actual[-1].parent


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Make a cluster of databases, serve it, and remove it."""
    commands, owner = binaries(), _owner()
    folder = Path(tempfile.mkdtemp(prefix="lathe-pg-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    try:
        (folder / "password").write_text(PASSWORD)
        for path in (folder, folder / "password"):
            shutil.chown(path, *owner.values()) if owner else None
        identity: dict[str, Any] = {**owner, "extra_groups": []} if owner else {}
        common: dict[str, Any] = {"cwd": folder, "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, **identity}
        login = ["--username", USER, "--auth", "scram-sha-256", "--pwfile", str(folder / "password")]
        initdb = [str(commands / "initdb"), "--pgdata", str(folder / "data"), "--no-sync", "--encoding=UTF8", *login]
        subprocess.run(initdb, check=True, stderr=subprocess.STDOUT, **common)
        with _served(commands, folder, common) as server:
            yield server
    finally:
        shutil.rmtree(folder)


@contextmanager
def _served(commands: Path, folder: Path, common: dict[str, Any]) -> Iterator[Postgres]:
    port = free_port()
    settings = ["listen_addresses=127.0.0.1", f"port={port}", f"unix_socket_directories={folder}", *QUICK]
    command = [str(commands / "postgres"), "-D", str(folder / "data")]
    servers: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        with (folder / "log").open("ab") as log:
            message = common | {"stdout": log, "stderr": log}
            servers.append(subprocess.Popen([*command, *(word for one in settings for word in ("-c", one))], **message))
        _wait_until_ready(commands, servers[-1], port, folder)

    def stop() -> None:
        servers[-1].send_signal(signal.SIGINT)  # ends every session and then itself
        try:
            servers[-1].wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            servers[-1].kill()
            servers[-1].wait()

    def restart() -> None:
        stop()
        start()

    try:
        start()
        yield Postgres(port, restart)
    finally:
        stop()


def _wait_until_ready(commands: Path, server: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    ask = [str(commands / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]

    def is_ready() -> bool:
        assert server.poll() is None, (folder / "log").read_text()
        return subprocess.run(ask, check=False).returncode == 0

    wait_until(is_ready, (folder / "log").read_text, pause_s=0.1)


def _owner() -> dict[str, str | int]:
    """Whom the server runs as: it refuses to be root's."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    entry = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": entry.pw_uid, "group": entry.pw_gid}
