"""The launching side of a run: starts an attempt, shows its progress, has it copied to the trackers, and records how it ended."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import FrameType
from typing import Any, TextIO

import yaml

from experiments.components.instantiate import instantiate
from experiments.config.allowlist import trusted
from experiments.core.atomic import write_text
from experiments.core.console import Display
from experiments.core.errors import InputError
from experiments.launch.outcome import Status, determine_outcome, write_outcome
from experiments.launch.stop import KILL_AFTER_S, TOO_SLOW
from experiments.plan.plan import make_plan
from experiments.run import journal
from experiments.run.folder_watch import FolderWatch
from experiments.run.lock import lock_run
from experiments.run.metrics import read_last_values
from experiments.run.rank_reports import RankLogs
from experiments.trial.trial import Trial
from launchers.base import DONE, FAILED, WRONG_INPUT, AttemptSpec, Handle, Launcher, LaunchError

POLL_S = 0.05
SYNC_TIMEOUT_S = 600.0
SYNC_AFTER_STOP_S = 3.0
"""How long to show the sync of a run that was asked to stop; it goes on in the background."""
LOCAL_LAUNCHER = "launchers.local.Local"


@dataclass
class RunResult:
    """How an attempt ended."""

    trial: Trial
    attempt: int
    status: Status
    reason: str | None
    exit_code: int
    """0: finished, 1: the run failed or was interrupted, 2: the input is wrong."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The last value of every metric, by name."""
    mlflow: dict[str, Any] = field(default_factory=dict)
    """The last report of the sync: run_id, experiment_id, pending, model, warning, pages, error."""


def uses_scheduler(config: Mapping[str, Any]) -> bool:
    """Return whether even a single run goes to a scheduler."""
    return bool(config["launcher"]["_target_"] != LOCAL_LAUNCHER and "dry_run" in config["launcher"])


def _make_launcher(node: dict[str, Any], trust: Sequence[str] = ()) -> Launcher:
    launcher: Launcher = instantiate(node, "launcher", trust)
    return launcher


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
) -> RunResult:
    """Run a frozen trial to its end; if it has a checkpoint, resume from the last one.

    Args:
        trial: from `freeze`; its folder gets a new attempt.
        trust: packages, besides the built-in ones, whose classes the trial may name.
        display: shows progress; None: lines on standard error.
        launcher: from `prestart`; used unless the trial names another launcher.
        changes: values that differ from the trial in this attempt, by key of the root; from `resume.changes`.

    Raises:
        InputError: another attempt of this run is running, or the trial cannot run.
        LaunchError: the machine refuses another process.
    """
    config = {**trial.config, **(changes or {})}
    plan = make_plan(config)
    packages = trusted(trust)
    if launcher is None or config["launcher"]["_target_"] != LOCAL_LAUNCHER:
        launcher = _make_launcher(config["launcher"], packages)
    with _lock(trial):
        monitor = _AttemptMonitor(
            trial, _create_attempt(trial, changes), display or Display(sys.stderr), plan.topology.world, packages
        )
        hardware = config["hardware"]
        spec = AttemptSpec(trial.folder, monitor.attempt, packages, hardware["nodes"], hardware["devices_per_node"])
        try:
            handle: Handle = launcher.launch(spec)
        except LaunchError:
            shutil.rmtree(monitor.folder)
            raise
        (trial.folder / "outcome.json").unlink(missing_ok=True)
        with _SignalForwarder(handle) as signals, monitor.display.training(plan.name, plan.num_steps):
            watch = FolderWatch(monitor.folder)
            while handle.poll() is None:
                monitor.update(signals.count)
                if watch.is_gone() or signals.is_overdue:
                    handle.signal(signal.SIGKILL)
                time.sleep(POLL_S)
            monitor.update(signals.count)
            is_too_slow = signals.count == 1 and signals.is_overdue
            result = monitor.result(
                handle.poll(), handle.failed_rank, was_killed_by_us=signals.count > 1, is_too_slow=is_too_slow
            )
    if monitor.sync is not None or result.exit_code != WRONG_INPUT:
        _finish_sync(monitor, result, SYNC_AFTER_STOP_S if signals.count else SYNC_TIMEOUT_S)
    return result


class _AttemptMonitor:
    """What the launching side knows of an attempt: the tail of its journal."""

    def __init__(
        self, trial: Trial, attempt: int, display: Display, num_ranks: int, trust: tuple[str, ...] = ()
    ) -> None:
        self.trial, self.attempt, self.display, self.trust = trial, attempt, display, trust
        self.folder = trial.folder / "attempts" / str(attempt)
        self.logs = RankLogs(self.folder, num_ranks) if num_ranks > 1 else None
        self.offset = 0
        self.metrics = read_last_values(trial.folder)
        self.last_state: journal.StateEvent | None = None
        self.sync: subprocess.Popen[str] | None = None
        self.has_steps = False
        self.num_signals = 0

    def update(self, num_signals: int) -> None:
        """Read the new events and log lines, and show them."""
        events, self.offset = journal.read(self.folder / "journal.jsonl", self.offset)
        if num_signals and not self.num_signals:
            self._show(lambda: self.display.say(self._describe_stop()))
        self.num_signals = num_signals
        for line in self.logs.new_lines() if self.logs is not None else ():
            self._show(partial(self.display.say, line))
        for event in events:
            if event["event"] == "metrics":
                self._on_metrics(event)
            elif event["event"] == "state":
                self._on_state(event)

    def _describe_stop(self) -> str:
        """Say when a training that was asked to stop ends: its first step comes before its first look at the signal."""
        if self.last_state is None:
            action = "the training is still starting; it ends after its first step, with a checkpoint of it"
        else:
            action = "the training ends after this step, with a checkpoint of it"
        return f"stopping: {action} (a second signal ends it at once)"

    def _on_metrics(self, event: journal.MetricsEvent) -> None:
        self.metrics |= event["metrics"]
        self._show(lambda: self.display.metrics(event["step"], event["metrics"], self.metrics))
        # The import of MLflow takes seconds of CPU, so it waits until the first step is done.
        if not self.has_steps and self.trial.config["tracking"]["sync"] == "live":
            self.start_sync()
        self.has_steps = True

    def _on_state(self, event: journal.StateEvent) -> None:
        self.last_state = event
        if event["state"] == "running" and event["reason"]:
            self._show(lambda: self.display.say(f"warning: {event['reason']}"))
        elif event["state"] == "running":
            self._show(lambda: self.display.started(event["step"]))

    def _show(self, on_display: Callable[[], None]) -> None:
        """Show progress. A closed terminal (`| head`) or a full disk does not end the training."""
        with contextlib.suppress(OSError, SystemExit):  # rich makes a broken pipe a SystemExit
            on_display()

    def start_sync(self) -> None:
        """Start the sync of the run, unless the disk or the machine refuses."""
        with contextlib.suppress(OSError):  # for example no space for its log; `lathe sync` can do it later
            self.sync = start_sync(self.trial, self.attempt, self.trust)

    def result(
        self, code: int | None, failed_rank: int | None = None, *, was_killed_by_us: bool, is_too_slow: bool = False
    ) -> RunResult:
        """Determine how the attempt ended, and write it to `outcome.json`.

        Args:
            code: exit code of the rank that decides.
            failed_rank: that rank; None for a single rank.
            was_killed_by_us: because of a second signal.
            is_too_slow: it was killed because it did not stop in time.
        """
        outcome = determine_outcome(
            self.trial, self.attempt, self.last_state, code, failed_rank, was_killed_by_us=was_killed_by_us
        )
        if is_too_slow and outcome.status == "killed":
            outcome = replace(outcome, reason=f"it did not stop within {KILL_AFTER_S:.0f} s, {TOO_SLOW}")
        write_outcome(self.trial, self.attempt, outcome, code)
        # User code may exit with any code, so code 2 counts as wrong input only if the attempt reported a failure.
        has_reported = self.last_state is not None and self.last_state["state"] == "failed"
        exit_code = (
            DONE if outcome.status == "finished" else WRONG_INPUT if code == WRONG_INPUT and has_reported else FAILED
        )
        return RunResult(self.trial, self.attempt, outcome.status, outcome.reason, exit_code, self.metrics)


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

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.count = 0
        self._first_at = 0.0

    @property
    def is_overdue(self) -> bool:
        """Whether the training has had `KILL_AFTER_S` since the first signal."""
        return self.count > 0 and time.monotonic() - self._first_at > KILL_AFTER_S

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
        self.count += 1
        self._first_at = self._first_at or time.monotonic()
        self.handle.signal(number if self.count == 1 else signal.SIGKILL)


def start_sync(trial: Trial, attempt: int, trust: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start the process that copies a run to its trackers while it trains.

    Args:
        trial: the run.
        attempt: number of the attempt.
        trust: packages whose code a tracker, and the logged model, may include.
    """
    module = [sys.executable, "-P", "-m", "experiments.tracking.follow_run"]
    command = [*module, str(trial.folder), "--attempt", str(attempt), *(f"--trust={package}" for package in trust)]
    log = (trial.folder / "attempts" / str(attempt) / "sync.log").open("w", encoding="utf-8")
    with log:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            encoding="utf-8",
            errors="replace",
        )


def _finish_sync(monitor: _AttemptMonitor, result: RunResult, timeout_s: float) -> None:
    """Wait until the sync is complete; the sync itself gives up if the store does not answer."""
    if monitor.trial.config["tracking"]["sync"] == "off":
        return
    if monitor.sync is None and monitor.folder.is_dir():
        monitor.start_sync()
    later = f"the trackers do not have all of this run yet; run `lathe sync {monitor.trial.reference}` later"
    if monitor.sync is None:
        monitor.display.say(later)
        return
    assert monitor.sync.stdin is not None
    monitor.sync.stdin.close()  # this ends the sync, also if a full disk prevented outcome.json
    try:
        with monitor.display.waiting("copying the run to its trackers"):
            monitor.sync.wait(timeout_s)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        monitor.display.say(f"the sync continues in the background (process {monitor.sync.pid})")
    if not monitor.folder.is_dir():
        return
    for line in (monitor.folder / "sync.log").read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            report = json.loads(line)
            result.mlflow |= report if isinstance(report, dict) else {}
    if result.mlflow.get("warning"):
        monitor.display.say(f"warning: {result.mlflow['warning']}")
    if monitor.sync.poll():
        error = result.mlflow.get("error")
        monitor.display.say(f"warning: {error}" if error else later)
