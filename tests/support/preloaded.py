"""Commands of Lathe in forks of one process that has imported torch and MLflow, which takes 4 to 8 s of a core each time.

A command has its own process, session, environment, folder and standard streams, and so have its training and its sync.
Tests of imports, of the interpreter's options or of a process's command line start a real interpreter instead.

`python -m tests.support.preloaded SOCKET PID` serves until the process PID has ended.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from experiments.tracking import mlflow_client
from launchers.base import START
from tests.support.waiting import wait_until

PR_SET_NAME = 15  # of linux/prctl.h
CLIENT = Path(__file__).with_name("preloaded_client.py")
MODULES = (
    "experiments.cli", "experiments.launch.training_process", "experiments.tracking.follow_run",
    "experiments.tracking.follow_sweep", "tests.support.tracking_server",
)  # fmt: skip
"""What runs in a fork; every other program is started as usual."""
PRELOAD = (
    "lathe",  # first, because it pins the names of the others
    "torch._dynamo", "experiments.train.attempt", "experiments.plan.estimate", "experiments.cli.plan", "experiments.cli.run",
    "experiments.cli.sweep", "experiments.config.compose", "experiments.launch.run_trial", "experiments.launch.async_supervisor",
    "experiments.tracking.run_sync", "experiments.tracking.sweep_sync",
)  # fmt: skip


def make_command(address: Path) -> list[str]:
    """Return what to put before the arguments of `lathe`, to run it in a fork."""
    return [sys.executable, "-IS", str(CLIENT), str(address)]


def find_server(root: Path) -> Path:
    """Return the socket of the server, which is started if there is none yet.

    Args:
        root: temporary folder of the whole test session, with all its worker processes.
    """
    address = root / "preloaded"
    with (root / "preloaded.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _answers(address):
            _start(address)
    return address


def _answers(address: Path) -> bool:
    with closing(socket.socket(socket.AF_UNIX)) as connection:
        return connection.connect_ex(str(address)) == 0


def _start(address: Path) -> None:
    session = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    address.unlink(missing_ok=True)
    log = address.with_suffix(".log")
    command = [sys.executable, "-P", "-m", "tests.support.preloaded", str(address), str(session)]
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        *((os.POSIX_SPAWN_OPEN, number, str(log), flags, 0o600) for number in (1, 2)),
    ]
    environment = {**os.environ, "PYTHONPATH": str(CLIENT.parents[2])}
    pid = os.posix_spawn(sys.executable, command, environment, file_actions=actions, setsid=True)
    wait_until(lambda: _answers(address) or os.waitpid(pid, os.WNOHANG)[0], log.read_text)
    assert _answers(address), log.read_text()


class Preloaded(subprocess.Popen[Any]):
    """Starts the modules of `MODULES` in a fork of the server, in a session of their own, and every other program as usual."""

    address: ClassVar[str]
    _server: socket.socket | None = None

    def _execute_child(self, args: Any, *rest: Any) -> None:
        if not _is_preloaded(args):
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        cwd, env, pipes = rest[4], rest[5], rest[9:15]
        streams = [number if pipe == -1 else pipe for number, pipe in enumerate((pipes[0], pipes[3], pipes[5]))]
        blocked = [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])]
        environment = dict(os.environ if env is None else env)
        request = json.dumps([args[3], args[4:], str(cwd or os.getcwd()), environment, blocked, False]).encode()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(self.address)
        socket.send_fds(self._server, [len(request).to_bytes(8, "big")], streams)
        self._server.sendall(request)
        self.pid = _receive_number(self._server)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._server is None:
            pid, status = super()._try_wait(wait_flags)  # type: ignore[misc]
            return pid, status
        if wait_flags & os.WNOHANG and not select.select([self._server], [], [], 0)[0]:
            return 0, 0
        with self._server:
            return self.pid, _receive_number(self._server)

    def _internal_poll(self, *args: Any, **options: Any) -> int | None:
        if self._server is None:
            code: int | None = super()._internal_poll(*args, **options)  # type: ignore[misc]
            return code
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                self._handle_exitstatus(status)  # type: ignore[attr-defined]
        return self.returncode


def _is_preloaded(args: Any) -> bool:
    """Whether arguments start one of `MODULES`."""
    starts = ([sys.executable, "-P", "-m"], [sys.executable, "-P", str(START)])
    return isinstance(args, list) and args[:3] in starts and args[3] in MODULES


def _receive_number(connection: socket.socket) -> int:
    number = connection.recv(8, socket.MSG_WAITALL)
    assert len(number) == 8, "the server of preloaded commands has ended; see preloaded.log in the temporary folder"
    return int.from_bytes(number, "big")


def _run_as_program(
    module: str,
    arguments: Sequence[str],
    cwd: str,
    environment: Mapping[str, str],
    blocked: Sequence[int],
    streams: Sequence[int],
) -> NoReturn:
    """Make this process, which has just been forked, what `python -P -m MODULE ARGUMENTS` would be, until its end."""
    code: object = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        copies = [fcntl.fcntl(stream, fcntl.F_DUPFD, 10) for stream in streams]
        for number, copy in enumerate(copies):
            os.dup2(copy, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)  # noqa: SIM115
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environment)
        folders = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
        sys.path[:0] = [folder for folder in folders if folder not in sys.path]
        atexit._clear()
        sys.modules.pop(module, None)
        sys.argv = [module, *arguments]
        ctypes.CDLL(None).prctl(PR_SET_NAME, module.rpartition(".")[2].encode())
        subprocess.Popen = Preloaded  # type: ignore[misc]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        _end(code)


def _end(code: object) -> NoReturn:
    """End the process as the interpreter does."""
    number = 1
    try:
        if code is None or isinstance(code, int):
            number = code or 0
        else:
            print(code, file=sys.stderr)
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
    finally:
        os._exit(number & 0xFF)


class _ForkServer:
    """Runs commands in forks. A client gets the process id and, at the end, the wait status, 8 bytes each."""

    def __init__(self, address: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        self._listener.listen(16)
        self._wakeup, on_signal = socket.socketpair()
        self._on_signal = on_signal
        for end in (self._wakeup, on_signal):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(on_signal.fileno())
        self._clients: dict[int, socket.socket] = {}
        self._to_kill: set[int] = set()
        """Commands that end with their client."""

    def serve(self, session: int) -> None:
        """Serve until the process ``session`` has ended."""
        while Path(f"/proc/{session}").exists():
            ready = select.select([self._listener, self._wakeup, *self._clients.values()], [], [], 1.0)[0]
            for pid in [pid for pid, client in self._clients.items() if client in ready]:  # the client has died
                self._clients.pop(pid).close()
                if pid in self._to_kill:
                    for kill in (os.killpg, os.kill):  # the second, if it has no session of its own yet
                        with suppress(ProcessLookupError):
                            kill(pid, signal.SIGKILL)
            if self._wakeup in ready:
                self._wakeup.recv(4096)
                self._reap()
            if self._listener in ready:
                self._accept(self._listener.accept()[0])

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                self._to_kill.discard(pid)
                client = self._clients.pop(pid, None)
                if client is not None:
                    with suppress(OSError), client:
                        client.sendall(status.to_bytes(8, "big"))

    def _accept(self, client: socket.socket) -> None:
        header, streams, _, _ = socket.recv_fds(client, 8, 3)
        if not header:  # it only asks whether this serves
            client.close()
            return
        request = client.recv(int.from_bytes(header, "big"), socket.MSG_WAITALL)
        module, arguments, cwd, environment, blocked, is_tied = json.loads(request)
        pid = os.fork()
        if pid == 0:
            _run_as_program(module, arguments, cwd, environment, blocked, streams)
        for stream in streams:
            os.close(stream)
        self._clients[pid] = client
        if is_tied:
            self._to_kill.add(pid)
        with suppress(OSError):
            client.sendall(pid.to_bytes(8, "big"))


def main() -> None:
    address, session = sys.argv[1:]
    for name in PRELOAD:
        importlib.import_module(name)
    mlflow_client.get_store_errors()  # imports MLflow as quietly as Lathe does
    for name in ("mlflow.store.tracking.sqlalchemy_store", "mlflow.server.fastapi_app", "uvicorn"):
        importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()  # a fork would lose the others
    Preloaded.address = address
    gc.collect()
    gc.freeze()
    _ForkServer(address).serve(int(session))


if __name__ == "__main__":
    main()
