"""Trains in the process of the command, so that debuggers, profilers, Ctrl-C and `print` work as in any script."""

from __future__ import annotations

import signal
import sys
import traceback
import warnings
from bdb import BdbQuit
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from experiments.components.user_code import find_user_error, is_user_file
from experiments.core.errors import InputError
from experiments.core.files.packages import allow_local_packages
from experiments.core.safe_output import get_raw_stream
from experiments.launch.async_supervisor import is_supervised
from experiments.launch.attempt_monitor import AttemptMonitor, RunResult
from experiments.launch.stop import StopSignal
from experiments.plan.plan import Plan
from experiments.run.failure import EXCEPTION
from experiments.run.history import read_last_step
from experiments.run.journal import Journal
from experiments.run.state import is_cancel_requested
from launchers.base import FAILED

LOG = "This attempt ran with --here: its output went to the terminal of the command.\n"


class WatchedJournal(Journal):
    """A journal that calls a function after each event, in the thread that trains."""

    def __init__(self, path: Path, on_event: Callable[[], None]) -> None:
        super().__init__(path)
        self._on_event = on_event

    def _append(self, event: Mapping[str, object]) -> None:
        super()._append(event)
        self._on_event()


def check_here(config: Mapping[str, Any], plan: Plan) -> None:
    """Check that a trial can run in one process.

    Raises:
        InputError: it needs several.
    """
    world = plan.topology.world
    if world > 1:
        sizes = " ".join(f"hardware.{key}={config['hardware'][key]}" for key in ("nodes", "devices_per_node"))
        problem = (
            f"--here trains in the process of the command, but {sizes} needs {world} processes, one for each device; "
            "add `parallel=single hardware.nodes=1 hardware.devices_per_node=1`, or leave out --here"
        )
    elif is_supervised(config):
        problem = (
            f"--here trains in the process of the command, but parallel={config['parallel']['_target_']} starts processes for "
            "replicas and servers; add `parallel=single`, or leave out --here"
        )
    else:
        return
    raise InputError([problem], "`lathe run --here`")


def train_here(monitor: AttemptMonitor, trust: tuple[str, ...]) -> tuple[RunResult, BaseException | None]:
    """Run the attempt of a monitor in this process, to its end.

    Ctrl-C saves after the current step; a second one raises KeyboardInterrupt at once.

    Returns:
        How it ended, and the error that ended it: of the user's code, if that caused it.
    """
    from experiments.train.attempt import run_attempt
    from experiments.train.determinism import restore_process_state
    from modules.parallel.base import Rank

    trial, attempt, errors = monitor.trial, monitor.attempt, list[BaseException]()
    (monitor.folder / "log.txt").write_text(LOG, encoding="utf-8")
    allow_local_packages(trust)
    code = FAILED
    with (
        warnings.catch_warnings(),
        restore_process_state(),
        _StopRequest(monitor) as should_stop,
        _raw_output(),
        WatchedJournal(monitor.folder / "journal.jsonl", monitor.update) as journal,
    ):
        try:
            code = run_attempt(trial, attempt, trust, Rank(), journal, should_stop, on_error=errors.append)
        except BaseException as err:  # Ctrl-C, the end of a debugger, and sys.exit in the user's code
            errors.append(err)
            _log_end(journal, attempt, err)
        if errors:
            with (monitor.folder / "log.txt").open("a", encoding="utf-8") as log:
                traceback.print_exception(errors[0], file=log)
    monitor.update(has_ended=True)
    return monitor.result(code, was_killed_by_us=False), errors[0] if errors else None


def _log_end(journal: Journal, attempt: int, err: BaseException) -> None:
    step = read_last_step(journal.path)
    if isinstance(err, (KeyboardInterrupt, BdbQuit)):
        reason = f"{_describe_stop(err)} ended it at once; it continues from its last checkpoint"
        journal.state("interrupted", step=step, attempt=attempt, reason=reason)
    else:
        journal.state("failed", step=step, attempt=attempt, reason=f"{type(err).__name__}: {err}", failure=EXCEPTION)


def _describe_stop(err: BaseException) -> str:
    return "Ctrl-C" if isinstance(err, KeyboardInterrupt) else "the debugger"


def select_error(err: BaseException, trust: Collection[str]) -> BaseException | None:
    """The error that the caller should get: the user's own, with its frames for a debugger; None if the result says it all."""
    own, frame = find_user_error(err, trust)
    if frame is None or isinstance(own, BdbQuit):
        return None if isinstance(err, Exception) else err
    frames = own.__traceback__
    while frames is not None and not is_user_file(frames.tb_frame.f_code.co_filename, trust):
        frames = frames.tb_next
    return own.with_traceback(frames or own.__traceback__)


class _StopRequest:
    """Returns why training should stop. In another thread than the main one signals are the caller's."""

    def __init__(self, monitor: AttemptMonitor) -> None:
        self._monitor = monitor
        self._signals: StopSignal | None = None
        self._reason: str | None = None

    def __call__(self) -> str | None:
        if self._reason is None and is_cancel_requested(self._monitor.folder):
            self._reason = "`lathe cancel`"
        return self._reason or (self._signals.reason if self._signals is not None else None)

    def __enter__(self) -> _StopRequest:
        try:
            self._before = signal.signal(signal.SIGINT, self._on_interrupt)
        except ValueError:
            return self
        self._signals = StopSignal((signal.SIGTERM, signal.SIGUSR2), self._monitor.stop_timeout_s)
        return self

    def __exit__(self, *_: object) -> None:
        if self._signals is not None:
            self._signals.close()
            signal.signal(signal.SIGINT, self._before)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._reason is not None:
            raise KeyboardInterrupt
        self._reason = "SIGINT"
        self._monitor.say("stopping: a checkpoint is saved after this step (press Ctrl-C again to stop at once)")


@contextmanager
def _raw_output() -> Iterator[None]:
    """Let user code write control sequences, as debuggers and progress bars do."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (get_raw_stream(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
