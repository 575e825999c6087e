"""`lathe ui`: serves MLflow's own UI on the loopback interface while the command runs."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from experiments.core.errors import InputError
from experiments.core.files.paths import user_path
from experiments.core.files.read_file import open_regular
from experiments.core.runs_dir import make_ignored
from experiments.core.signals import signals_as_interrupt
from experiments.sweep.sweep import Sweep, format_reference
from experiments.tracking import mlflow_view, ui_access
from experiments.tracking.sqlite_store import find_damage
from experiments.tracking.store_uri import (
    StoreError,
    get_artifacts_folder,
    get_sqlite_path,
    is_server,
    make_absolute,
    make_sqlite_uri,
    resolve_store,
    strip_login,
)
from experiments.trial.parameters import mask_password
from launchers.base import module_command

_START_TIMEOUT_S = 120.0  # 12 s on two idle cores (2026-11-23)
_END_TIMEOUT_S = 10.0
MAX_SWEEPS = 5
"""Most sweeps whose links are printed."""
SQLITE = b"SQLite format 3\0"
"""The first bytes of an SQLite file."""


def serve(
    runs_dir: Path,
    store: str | None = None,
    experiment: str = "lathe",
    port: int | None = None,
    say: Callable[[str], None] = print,
    sweep: Sweep | None = None,
    named: str = "--store ",
) -> int:
    """Serve a store until Ctrl-C or SIGTERM; if the store is a server itself, only print the address.

    The address has a random token; see `experiments.tracking.ui_access`.

    Args:
        runs_dir: folder of the runs.
        store: as `tracking.store`, or the path of an SQLite file.
        experiment: the experiment that the address opens.
        port: port on the loopback interface; None: a free port.
        say: called with the address when the server answers, then with the links of the newest sweeps.
        sweep: the sweep that the address opens, if any.
        named: the option that set the store, for errors, such as "tracking.store=".

    Returns:
        0 after Ctrl-C or SIGTERM.

    Raises:
        InputError: the path of the store is not a file.
        StoreError: the store does not exist, the port is taken, or the server failed.
    """
    uri = _make_absolute(resolve_store(store, runs_dir), f"{named}{store}")
    if sweep is not None and not mlflow_view.is_in_store(sweep, uri):
        raise StoreError(
            f"sweep '{sweep.name}' is not in the store {mask_password(store or uri)}; "
            f"`lathe sync {format_reference(sweep)}` uploads it to the store of its configuration"
        )

    def print_links(address: str) -> None:
        say(runs_page(address, experiment) if sweep is None else mlflow_view.make_link(sweep, address))
        for other in mlflow_view.list_newest(runs_dir, uri, MAX_SWEEPS) if sweep is None else ():
            say(f"  sweep {other.name}  {mlflow_view.make_link(other, address)}")

    if is_server(uri):
        print_links(strip_login(uri))
        return 0
    database = get_sqlite_path(uri)
    if database is not None and not database.is_file():
        raise StoreError(
            f"runs_dir={runs_dir} has no runs to show: {database} is missing; `lathe run` or `lathe sync` it"
        )
    with signals_as_interrupt(), tempfile.TemporaryFile() as log, _listen(port) as listener:
        if database is not None and (damage := _find_damage(database)):
            raise StoreError(f"{database} {damage}; `lathe sync` makes it again from the journals")
        token = ui_access.make_token()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/{token}"
        server = _start(uri, runs_dir, listener, token, log)
        print("starting the MLflow server, which takes some seconds; Ctrl-C stops it", file=sys.stderr, flush=True)
        try:
            _wait_until_healthy(server, address, log)
            print_links(address)
            server.wait()
            raise StoreError(f"the MLflow server exited ({_find_error(log)}); start `lathe ui` again")
        except KeyboardInterrupt:
            return 0
        finally:
            _end_group(server)


def _find_damage(database: Path) -> str | None:
    """Find out why a server cannot show a file; None if nothing is found, or another process is writing it."""
    with contextlib.suppress(sqlite3.Error):
        return find_damage(database)
    return None


def _make_absolute(uri: str, given: str) -> str:
    """Make a store independent of the current folder, as the server runs in the folder of the runs.

    Args:
        uri: a URI, or the path of an SQLite file.
        given: the option as written, for errors.

    Raises:
        InputError: the path is not a file.
    """
    if re.match(r"[\w+]+:", uri):
        return make_absolute(uri)
    path = user_path(uri, "--store")
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise InputError([f"{given} {problem}; name an SQLite file such as runs/mlflow.db, or an address (http://...)"])
    with open_regular(path) as file, contextlib.suppress(OSError):
        start = file.read(len(SQLITE))
        if start in (SQLITE, b""):
            return make_sqlite_uri(path.absolute())
    raise InputError([f"{given} is not an SQLite file; name one such as runs/mlflow.db, or an address (http://...)"])


def runs_page(address: str, experiment: str) -> str:
    """The page of an experiment's runs; without `workflowType` MLflow 3 opens a page about traces instead."""
    view = "workflowType=machine_learning"
    try:
        response = _get(f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name={quote(experiment)}")
        return f"{address}/#/experiments/{json.loads(response)['experiment']['experiment_id']}/runs?{view}"
    except (OSError, ValueError, KeyError):  # no such experiment, or a server that wants a login first
        return f"{address}/#/experiments?{view}"


def _start(uri: str, runs_dir: Path, listener: socket.socket, token: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start the server in its own process group, so that only this process receives Ctrl-C."""
    module = [sys.executable, "-P", *module_command("experiments.tracking.ui_server")]
    options = {"listener": listener.fileno(), "artifacts": get_artifacts_folder(uri, runs_dir), "parent": os.getpid()}
    command = [*module, *(text for name, value in options.items() for text in (f"--{name}", str(value)))]
    # Not arguments: all users of the machine can read arguments.
    environment = os.environ | {"MLFLOW_BACKEND_STORE_URI": uri, ui_access.TOKEN_VARIABLE: token}
    make_ignored(runs_dir)
    return subprocess.Popen(
        command,
        env=environment,
        cwd=runs_dir,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        pass_fds=[listener.fileno()],
    )


def _wait_until_healthy(server: subprocess.Popen[bytes], address: str, log: IO[bytes]) -> None:
    port, end = urlsplit(address).port, time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < end:
        if server.poll() is not None:
            raise StoreError(
                f"the MLflow server did not start on port={port}: {_find_error(log)}; fix that, or choose another port"
            )
        with contextlib.suppress(OSError):
            _get(f"{address}/health")
            return
        time.sleep(0.2)
    raise StoreError(f"the MLflow server on port={port} did not answer within {_START_TIMEOUT_S:.0f} s; try again")


def _end_group(server: subprocess.Popen[bytes]) -> None:
    """End the process group of the server: with SIGTERM, then with SIGKILL."""
    for number, patience_s in ((signal.SIGTERM, _END_TIMEOUT_S), (signal.SIGKILL, 2.0)):
        end = time.monotonic() + patience_s
        try:
            os.killpg(server.pid, number)
            while time.monotonic() < end:
                server.poll()  # reaps the leader; the group exists until its last member ends
                os.killpg(server.pid, 0)
                time.sleep(0.05)
        except ProcessLookupError:
            return


def _listen(port: int | None) -> socket.socket:
    """Listen on the loopback interface. The server inherits the socket, so no other process can take the port before it."""
    try:
        return socket.create_server(("127.0.0.1", port or 0))
    except (OSError, OverflowError) as err:
        raise StoreError(f"port={port} cannot be used on 127.0.0.1 ({err}); choose another port, or omit it") from err


def _get(address: str) -> bytes:
    """Fetch a page; from this machine without a proxy."""
    is_local = address.startswith("http://127.0.0.1:")
    opener = build_opener(ProxyHandler({})) if is_local else build_opener()
    try:
        with opener.open(Request(address, headers=_login()), timeout=5) as response:
            page: bytes = response.read()
            return page
    except HTTPError as err:
        err.close()
        raise


def _login() -> dict[str, str]:
    """Make the header for basic authentication from MLflow's own environment variables, if they are set."""
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD"))
    if not (user and password):
        return {}
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def _find_error(log: IO[bytes]) -> str:
    """Find the error in the log of the server: the last error of a traceback, else the last line."""
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception): ", line)]
    return mask_password((errors or lines or ["its log is empty"])[-1])[:300]
