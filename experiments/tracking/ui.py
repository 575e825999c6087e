"""Shows the runs in MLflow's own UI, served on this machine's loopback for as long as the command runs."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

from experiments.core.errors import InputError
from experiments.core.signals import signals_as_interrupt
from experiments.sweep.sweep import Sweep, format_reference
from experiments.tracking import mlflow_view
from experiments.tracking.store_uri import (
    StoreError,
    get_artifacts_folder,
    get_sqlite_path,
    is_server,
    make_absolute,
    resolve_store,
    strip_login,
)
from experiments.trial.parameters import mask_password

_START_TIMEOUT_S = 120.0  # 12 s on two idle cores (2026-11-23)
_END_TIMEOUT_S = 10.0
MAX_SWEEPS = 5
"""Of those whose pages are told."""


def serve(
    runs_dir: Path,
    store: str | None = None,
    experiment: str = "lathe",
    port: int | None = None,
    say: Callable[[str], None] = print,
    sweep: Sweep | None = None,
    named: str = "--store ",
) -> int:
    """Serve a store until Ctrl-C or SIGTERM; of a store that is a server itself, only say the address.

    Args:
        runs_dir: the folder of the runs.
        store: as `tracking.store`, or the path of an SQLite file.
        experiment: the one whose runs the address opens.
        port: of the loopback interface; None takes a free one.
        say: takes the address, once it answers; then those of the newest sweeps.
        sweep: the one at which the address opens, if any.
        named: what the store stands behind where it was given, such as "tracking.store=".

    Returns:
        0, the exit code of a server that was ended on purpose.

    Raises:
        InputError: the store is the path of no file.
        StoreError: there is no store, the port is taken, or the server failed.
    """
    uri = _make_absolute(resolve_store(store, runs_dir), f"{named}{store}")
    if sweep is not None and not mlflow_view.is_in_store(sweep, uri):
        raise StoreError(
            f"sweep '{sweep.name}' does not stand in the store {mask_password(store or uri)}; "
            f"`lathe sync {format_reference(sweep)}` brings it to its own"
        )

    def tell(address: str) -> None:
        say(runs_page(address, experiment) if sweep is None else mlflow_view.make_link(sweep, address))
        for other in mlflow_view.list_newest(runs_dir, uri, MAX_SWEEPS) if sweep is None else ():
            say(f"  sweep {other.name}  {mlflow_view.make_link(other, address)}")

    if is_server(uri):
        tell(strip_login(uri))
        return 0
    database = get_sqlite_path(uri)
    if database is not None and not database.is_file():
        raise StoreError(
            f"runs_dir={runs_dir} has no runs to show: {database} is missing; `lathe run` or `lathe sync` it"
        )
    port = _free_port(port)
    with signals_as_interrupt(), tempfile.TemporaryFile() as log:
        server = _start(uri, runs_dir, port, log)
        print("starting MLflow's server, which takes some seconds; Ctrl-C ends it", file=sys.stderr, flush=True)
        try:
            _wait_until_healthy(server, port, log)
            tell(f"http://127.0.0.1:{port}")
            server.wait()
            raise StoreError(f"MLflow's server ended by itself ({_find_error(log)}); start `lathe ui` again")
        except KeyboardInterrupt:
            return 0
        finally:
            _end_group(server)


def _make_absolute(uri: str, given: str) -> str:
    """A store so that it means the same in every folder: the server runs in that of the runs.

    Args:
        uri: or the path of an SQLite file.
        given: how it was, for an error.

    Raises:
        InputError: it is the path of no file.
    """
    if re.match(r"[\w+]+:", uri):
        return make_absolute(uri)
    path = Path(uri).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise InputError([f"{given} {what}; name an SQLite file such as runs/mlflow.db, or an address (http://...)"])
    return f"sqlite:///{path.absolute()}"


def runs_page(address: str, experiment: str) -> str:
    """The page of an experiment's runs; without `workflowType` MLflow 3 opens a page about traces instead."""
    view = "workflowType=machine_learning"
    try:
        found = _get(f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name={quote(experiment)}")
        return f"{address}/#/experiments/{json.loads(found)['experiment']['experiment_id']}/runs?{view}"
    except (OSError, ValueError, KeyError):  # no such experiment, or a server that wants a login first
        return f"{address}/#/experiments?{view}"


def _start(uri: str, runs_dir: Path, port: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start the server in a process group of its own, so that Ctrl-C reaches it through this process alone."""
    artifacts = get_artifacts_folder(uri, runs_dir)
    command = [
        sys.executable,
        "-P",
        "-m",
        "experiments.tracking.ui_server",
        "--port",
        str(port),
        "--artifacts",
        str(artifacts),
    ]
    command += ["--parent", str(os.getpid())]
    environment = os.environ | {"MLFLOW_BACKEND_STORE_URI": uri}  # not an argument: all users of a machine see those
    runs_dir.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        command, env=environment, cwd=runs_dir, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )


def _wait_until_healthy(server: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
    end = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < end:
        if server.poll() is not None:
            raise StoreError(
                f"MLflow's server did not start on port={port}: {_find_error(log)}; mend that, or try another"
            )
        with contextlib.suppress(OSError):
            _get(f"http://127.0.0.1:{port}/health")
            return
        time.sleep(0.2)
    raise StoreError(f"MLflow's server on port={port} did not answer within {_START_TIMEOUT_S:.0f} s; try again")


def _end_group(server: subprocess.Popen[bytes]) -> None:
    """End the server's whole process group, kindly first."""
    for number, patience_s in ((signal.SIGTERM, _END_TIMEOUT_S), (signal.SIGKILL, 2.0)):
        end = time.monotonic() + patience_s
        try:
            os.killpg(server.pid, number)
            while time.monotonic() < end:
                server.poll()  # reaps the leader; the group lives on with its members
                os.killpg(server.pid, 0)
                time.sleep(0.05)
        except ProcessLookupError:
            return


def _free_port(port: int | None) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port or 0))
        except (OSError, OverflowError) as err:
            raise StoreError(
                f"port={port} cannot be had on 127.0.0.1 ({err}); choose another, or leave it out"
            ) from err
        return int(probe.getsockname()[1])


def _get(address: str) -> bytes:
    """Fetch a page; from this machine without the proxy that its environment may name."""
    here = address.startswith("http://127.0.0.1:")
    opener = build_opener(ProxyHandler({})) if here else build_opener()
    try:
        with opener.open(Request(address, headers=_login()), timeout=5) as answer:
            page: bytes = answer.read()
            return page
    except HTTPError as err:
        err.close()
        raise


def _login() -> dict[str, str]:
    """What a server with basic authentication wants to see, where MLflow's own variables tell it."""
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD"))
    if not (user and password):
        return {}
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def _find_error(log: IO[bytes]) -> str:
    """What the server said last that tells the fault: the last error of a traceback, else the last line."""
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception): ", line)]
    return mask_password((errors or lines or ["it said nothing"])[-1])[:300]
