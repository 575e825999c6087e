"""Launchers of a user's own: the methods that they may leave out, and what happens then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.config import signature
from experiments.core.errors import InputError
from launchers.base import Executor, Handle, Launcher, WorkerPool

LOCAL_LAUNCHER = "launchers.local.Local"


def uses_scheduler(config: Mapping[str, Any]) -> bool:
    """Return whether even a single run goes to a scheduler: the launcher starts workers, and no single run."""
    target = str(config["launcher"]["_target_"])
    if target == LOCAL_LAUNCHER:
        return False
    try:
        return not signature.has_method(signature.read(target), ("launch",))
    except signature.SourceError:  # `_target_` is a class without source
        return "dry_run" in config["launcher"]


def _require(part: object, method: str, problem: str) -> None:
    """
    Raises:
        InputError: a part of the user's launcher lacks a method.
    """
    if not callable(getattr(part, method, None)):
        raise InputError([problem])


def complete_executor(executor: Any, target: str) -> Executor:
    """Give an executor the methods that it leaves out.

    Raises:
        InputError: it has no `submit`.
    """
    _require(
        executor, "submit",
        f"launcher._target_={target} has no method `submit`, and a sweep needs it to start its workers; "
        "add it, or write launcher=local",
    )  # fmt: skip
    return _CompleteExecutor(executor, target)


def check_launcher(launcher: Any, target: str) -> Launcher:
    """Check that a launcher can start a single run.

    Raises:
        InputError: it has no `launch`.
    """
    _require(
        launcher, "launch",
        f"launcher._target_={target} has no method `launch`, and a run that is started here needs it; "
        "start a sweep of one trial with `lathe run`, or write launcher=local",
    )  # fmt: skip
    checked: Launcher = launcher
    return checked


def complete_handle(handle: Any, target: str) -> Handle:
    """Give the handle of a running attempt the attributes that it leaves out.

    Raises:
        InputError: it has no `poll`.
    """
    _require(
        handle, "poll",
        f"launcher._target_={target}: `launch` returned {handle!r}, which has no method `poll`; "
        "return an object as `launchers.base.Handle` describes, such as subprocess.Popen",
    )  # fmt: skip
    if all(hasattr(handle, name) for name in ("pid", "failed_rank", "signal")):
        whole: Handle = handle
        return whole
    return _CompleteHandle(handle)


class _CompleteExecutor:
    """Calls a method of an executor if it has it, else does the least that is right."""

    def __init__(self, executor: Any, target: str) -> None:
        self._executor, self._target = executor, target

    def _call(self, name: str, argument: Any, default: Any) -> Any:
        method = getattr(self._executor, name, None)
        return method(argument) if callable(method) else default

    def submit(self, pool: WorkerPool) -> str:
        return str(self._executor.submit(pool))

    def find_jobs(self, pool: WorkerPool) -> list[str]:
        jobs: list[str] = self._call("find_jobs", pool, [])
        return jobs

    def count_workers(self, pool: WorkerPool) -> int:
        return int(self._call("count_workers", pool, pool.max_workers))

    def describe(self, pool: WorkerPool) -> str:
        text = f"{self._target} starts {self.count_workers(pool)} workers; it has no method `describe`, which says how"
        return str(self._call("describe", pool, text))

    def find_lost(self, workers: Sequence[str]) -> dict[str, str]:
        lost: dict[str, str] = self._call("find_lost", workers, {})  # their heartbeats still say who is lost
        return lost

    def count_pending(self, jobs: Sequence[str]) -> int:
        return int(self._call("count_pending", jobs, 0))

    def cancel(self, jobs: Sequence[str]) -> None:
        self._call("cancel", jobs, None)  # a worker of a sweep that is closed ends by itself


class _CompleteHandle:
    def __init__(self, handle: Any) -> None:
        self._handle = handle

    @property
    def pid(self) -> int:
        return int(getattr(self._handle, "pid", 0))

    def poll(self) -> int | None:
        code: int | None = self._handle.poll()
        return code

    @property
    def failed_rank(self) -> int | None:
        rank: int | None = getattr(self._handle, "failed_rank", None)
        return rank

    def signal(self, number: int) -> None:
        """Send a signal, by the method of the contract or that of `subprocess.Popen`."""
        send = getattr(self._handle, "signal", None) or getattr(self._handle, "send_signal", None)
        if callable(send) and self.poll() is None:
            send(number)
