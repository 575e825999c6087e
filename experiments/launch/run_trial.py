"""The launching side of a run: starts an attempt, shows its progress, has it copied to the trackers, and records how it ended."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, TextIO

import yaml

from experiments.components.instantiate import instantiate
from experiments.config.allowlist import trusted
from experiments.core.atomic import write_text
from experiments.core.console import Display
from experiments.core.errors import InputError
from experiments.launch.attempt_monitor import AttemptMonitor, RunResult, finish_sync
from experiments.launch.notify import EVENTS, Notifier
from experiments.launch.own_launcher import LOCAL_LAUNCHER, check_launcher, complete_handle
from experiments.launch.run_here import check_here, select_error, train_here
from experiments.launch.stop import kill_limit_s
from experiments.plan.plan import Plan, make_plan
from experiments.run import journal
from experiments.run.folder_watch import FolderWatch
from experiments.run.lock import lock_run
from experiments.run.state import is_cancel_requested
from experiments.trial.trial import Trial
from launchers.base import WRONG_INPUT, AttemptSpec, Handle, Launcher, LaunchError

POLL_S = 0.05
SYNC_TIMEOUT_S = 600.0
SYNC_AFTER_STOP_S = 3.0
"""How long to show the sync of a run that was asked to stop; it goes on in the background."""


def _make_launcher(node: dict[str, Any], trust: Sequence[str] = ()) -> Launcher:
    return check_launcher(instantiate(node, "launcher", trust), node["_target_"])


def prestart() -> Launcher:
    """Return the default launcher with a process that imports torch while the configuration is composed."""
    launcher = _make_launcher({"_target_": LOCAL_LAUNCHER})
    launcher.prestart()
    return launcher


def run(
    trial: Trial,
    *,
    trust: Sequence[str] = (),
    display: Display | None = None,
    launcher: Launcher | None = None,
    changes: Mapping[str, Any] | None = None,
    here: bool = False,
) -> RunResult:
    """Run a frozen trial to its end; if it has a checkpoint, resume from the last one.

    Args:
        trial: from `freeze`; its folder gets a new attempt.
        trust: packages, besides the built-in ones, whose classes the trial may name.
        display: shows progress; None: lines on standard error.
        launcher: from `prestart`; used unless the trial names another launcher.
        changes: values that differ from the trial in this attempt, by key of the root; from `resume.changes`.
        here: train in this process instead of processes of the launcher, for a debugger or a profiler.

    Raises:
        InputError: another attempt of this run is running, or the trial cannot run.
        LaunchError: the machine refuses another process.
        Exception: with ``here``, what the user's code raises.
    """
    config = {**trial.config, **(changes or {})}
    plan = make_plan(config)
    packages = trusted(trust)
    if here:
        check_here(config, plan)
        return _run_here(trial, plan, packages, display or Display(sys.stderr), changes)
    if launcher is None or config["launcher"]["_target_"] != LOCAL_LAUNCHER:
        launcher = _make_launcher(config["launcher"], packages)
    with _lock(trial):
        monitor = AttemptMonitor(
            trial, _create_attempt(trial, changes), display or Display(sys.stderr), plan.topology.world, packages
        )
        is_evaluation = trial.evaluates is not None  # asked now, as the folder may be gone at the end
        notifier = Notifier(trial, monitor.attempt, config.get("notify") or {}, monitor.say)
        hardware = config["hardware"]
        spec = AttemptSpec(trial.folder, monitor.attempt, packages, hardware["nodes"], hardware["devices_per_node"])
        try:
            handle = complete_handle(launcher.launch(spec), config["launcher"]["_target_"])
        except (LaunchError, InputError):
            shutil.rmtree(monitor.folder)
            raise
        (trial.folder / "outcome.json").unlink(missing_ok=True)
        with (
            _SignalForwarder(handle, monitor.stop_timeout_s) as signals,
            monitor.display.training(plan.name, plan.num_steps),
        ):
            watch = FolderWatch(monitor.folder)
            while handle.poll() is None:
                if not signals.count and is_cancel_requested(monitor.folder):
                    signals.stop()
                monitor.update(signals.count)
                notifier.check_stall(monitor.progress_at)
                if watch.is_gone() or signals.is_overdue:
                    handle.signal(signal.SIGKILL)
                time.sleep(POLL_S)
            monitor.update(signals.count, has_ended=True)
            is_too_slow = signals.count == 1 and signals.is_overdue
            result = monitor.result(
                handle.poll(), handle.failed_rank, was_killed_by_us=signals.count > 1, is_too_slow=is_too_slow
            )
        if not is_evaluation and result.exit_code != WRONG_INPUT and not signals.count:
            _notify(notifier, result)
    if monitor.sync is not None or result.exit_code != WRONG_INPUT:
        finish_sync(monitor, result, SYNC_AFTER_STOP_S if signals.count else SYNC_TIMEOUT_S)
    return result


def _run_here(
    trial: Trial, plan: Plan, trust: tuple[str, ...], display: Display, changes: Mapping[str, Any] | None
) -> RunResult:
    with _lock(trial):
        monitor = AttemptMonitor(trial, _create_attempt(trial, changes), display, num_ranks=0, trust=trust)
        (trial.folder / "outcome.json").unlink(missing_ok=True)
        with monitor.display.training(plan.name, plan.num_steps, has_bar=False):
            result, error = train_here(monitor, trust)
        if trial.evaluates is None and result.exit_code != WRONG_INPUT:  # no stall: a debugger waits for its user
            settings = {**trial.config, **(changes or {})}.get("notify") or {}
            _notify(Notifier(trial, monitor.attempt, settings, monitor.say), result)
    if monitor.sync is not None or result.exit_code != WRONG_INPUT:
        finish_sync(monitor, result, SYNC_AFTER_STOP_S if result.status == "interrupted" else SYNC_TIMEOUT_S)
    if error is not None and (seen := select_error(error, trust)) is not None:
        raise seen
    return result


def _notify(notifier: Notifier, result: RunResult) -> None:
    """Notify of the end of an attempt."""
    notifier.send(EVENTS.get(result.status, ""), result.status, result.reason, result.metrics)
    notifier.record()


def _lock(trial: Trial) -> TextIO:
    """Lock the run.

    Raises:
        InputError: another process runs it.
    """
    name = trial.folder.name
    try:
        return lock_run(trial.folder, first=True)
    except BlockingIOError as err:
        raise InputError(
            [f"run '{name}' is still running{_describe_process(trial)}; wait for its end, or stop it there"]
        ) from err
    except OSError as err:
        raise InputError([f"run '{name}' cannot be locked: {err.strerror} ({err.filename}); make it writable"]) from err


def _describe_process(trial: Trial) -> str:
    attempts = trial.attempts()
    events = journal.read(attempts[-1] / "journal.jsonl")[0] if attempts else []
    states = [event for event in events if event["event"] == "state"]
    return f" (process {states[-1]['pid']} on {states[-1]['host']})" if states else ""


def _create_attempt(trial: Trial, changes: Mapping[str, Any] | None) -> int:
    """Create the folder of the next attempt, with the values that differ from the trial.

    Raises:
        InputError: the folder cannot be created.
    """
    attempts = trial.attempts()
    number = int(attempts[-1].name) + 1 if attempts else _count_lost_attempts(trial) + 1
    folder = trial.folder / "attempts" / str(number)
    try:
        journal.set_aside_incomplete(trial.folder)
        folder.mkdir(parents=True)
        if changes:
            write_text(folder / "changed.yaml", yaml.safe_dump(dict(changes), sort_keys=False, allow_unicode=True))
    except FileExistsError as err:
        raise InputError([f"run '{trial.folder.name}' was just started by another process; wait for its end"]) from err
    except OSError as err:
        raise InputError([f"{folder} cannot be created: {err.strerror}; free space, or make it writable"]) from err
    return number


def _count_lost_attempts(trial: Trial) -> int:
    """Return the number of the last attempt of a run whose folder `attempts` was removed, so that it is not used again."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return int((trial.outcome() or {"attempt": 0})["attempt"])
    return 0


class _SignalForwarder:
    """Forwards Ctrl-C and SIGTERM. The first signal asks the training to save and stop, the second ends it at once."""

    def __init__(self, handle: Handle, timeout_s: float) -> None:
        self.handle, self.limit_s = handle, kill_limit_s(timeout_s)
        self.count = 0
        self._first_at = 0.0

    @property
    def is_overdue(self) -> bool:
        """Whether the training has had its time since the first signal."""
        return self.count > 0 and time.monotonic() - self._first_at > self.limit_s

    def __enter__(self) -> _SignalForwarder:
        try:
            self.before = {number: signal.signal(number, self._forward) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread, as in some notebooks: the caller handles signals
            self.before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        """Forward a signal. Do not print here: the interrupted code may be printing."""
        self.stop(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ask the training to save and stop; the second time, end it at once."""
        self.count += 1
        self._first_at = self._first_at or time.monotonic()
        self.handle.signal(number if self.count == 1 else signal.SIGKILL)
