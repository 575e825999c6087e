"""The launching side of a run: starts an attempt, shows it, brings it to the store and says how it ended."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any, TextIO

import yaml

from experiments.components.instantiate import instantiate
from experiments.config.allowlist import trusted
from experiments.core.atomic import write_text
from experiments.core.console import Display
from experiments.core.errors import InputError
from experiments.launch.outcome import Status, judge, record
from experiments.plan.plan import make_plan
from experiments.run import journal
from experiments.run.lock import lock_run
from experiments.run.metrics import read_last_values
from experiments.run.rank_reports import RankLogs
from experiments.trial.trial import Trial
from launchers.base import DONE, FAILED, WRONG_INPUT, AttemptSpec, Handle, Launcher, LaunchError

POLL_S = 0.05
LONGEST_SYNC_S = 600.0


LOCAL = "launchers.local.Local"


@dataclass
class RunResult:
    """How an attempt ended."""

    trial: Trial
    attempt: int
    status: Status
    reason: str | None
    exit_code: int
    """0 done, 1 the run failed or was stopped, 2 the input is wrong."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The last value of every metric, by name."""
    mlflow: dict[str, Any] = field(default_factory=dict)
    """What the sync said last: run_id, experiment_id, pending, model, warning, error."""


def runs_elsewhere(config: Mapping[str, Any]) -> bool:
    """Whether even a single run is given to a scheduler."""
    return bool(config["launcher"]["_target_"] != LOCAL and "dry" in config["launcher"])


def _launcher(node: dict[str, Any], trust: Sequence[str] = ()) -> Launcher:
    launcher: Launcher = instantiate(node, "launcher", trust)
    return launcher


def prestart() -> Launcher:
    """The default launcher with a process that imports torch on another core while a configuration is composed."""
    launcher = _launcher({"_target_": LOCAL})
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
    """Run a frozen trial to its end, from its last checkpoint where it has one.

    Args:
        trial: what `freeze` gave; its folder gets a new attempt.
        trust: packages beyond the house's own whose classes the trial may name.
        display: shows progress; None: lines on standard error.
        launcher: from `prestart`; used where the trial asks for no other.
        changes: what this attempt does otherwise than the trial, by key of the root; from `resume.changes`.

    Raises:
        InputError: an attempt at this run is still going on, or the trial cannot run.
        LaunchError: the machine refuses another process.
    """
    config = {**trial.config, **(changes or {})}
    plan = make_plan(config)
    packages = trusted(trust)
    if launcher is None or config["launcher"]["_target_"] != LOCAL:
        launcher = _launcher(config["launcher"], packages)
    with _hold(trial):
        watch = _AttemptMonitor(
            trial, _new_attempt(trial, changes), display or Display(sys.stderr), plan.topology.world
        )
        hardware = config["hardware"]
        assignment = AttemptSpec(trial.folder, watch.attempt, packages, hardware["nodes"], hardware["devices_per_node"])
        try:
            handle: Handle = launcher.launch(assignment)
        except LaunchError:
            shutil.rmtree(watch.folder)
            raise
        (trial.folder / "outcome.json").unlink(missing_ok=True)
        with _Signals(handle) as signals, watch.display.training(plan.name, plan.num_steps):
            while handle.poll() is None:
                watch.look(signals.count)
                time.sleep(POLL_S)
            watch.look(signals.count)
            result = watch.result(handle.poll(), handle.failed_rank, asked_to_end=signals.count > 1)
    if watch.sync is not None or result.exit_code != WRONG_INPUT:
        _finish_sync(watch, result)
    return result


class _AttemptMonitor:
    """What the launching side knows of an attempt: the tail of its journal."""

    def __init__(self, trial: Trial, attempt: int, display: Display, num_ranks: int) -> None:
        self.trial, self.attempt, self.display = trial, attempt, display
        self.folder = trial.folder / "attempts" / str(attempt)
        self.logs = RankLogs(self.folder, num_ranks) if num_ranks > 1 else None
        self.offset = 0
        self.metrics = read_last_values(trial.folder)
        self.last_state: journal.StateEvent | None = None
        self.sync: subprocess.Popen[str] | None = None
        self.has_steps = False
        self.num_signals = 0

    def look(self, num_signals: int) -> None:
        """Read on, and show it."""
        events, self.offset = journal.read(self.folder / "journal.jsonl", self.offset)
        if num_signals and not self.num_signals:
            self._show(lambda: self.display.say("stopping: a checkpoint is being saved (once more: end at once)"))
        self.num_signals = num_signals
        for line in self.logs.new_lines() if self.logs is not None else ():
            self._show(partial(self.display.say, line))
        for event in events:
            if event["event"] == "metrics":
                self._on_metrics(event)
            elif event["event"] == "state":
                self._on_state(event)

    def _on_metrics(self, event: journal.MetricsEvent) -> None:
        self.metrics |= event["metrics"]
        self._show(lambda: self.display.metrics(event["step"], event["metrics"], self.metrics))
        # MLflow's import takes seconds of CPU: it waits until the first step is done.
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
        """Show something; that the terminal has gone (`| head`), or its file is full, does not end the training."""
        with contextlib.suppress(OSError, SystemExit):  # rich makes a broken pipe a SystemExit
            on_display()

    def start_sync(self) -> None:
        """Start to bring the run to the store, where the machine lets it."""
        with contextlib.suppress(OSError):  # no room for its log; `lathe sync` does it later
            self.sync = start_sync(self.trial, self.attempt)

    def result(self, code: int | None, failed_rank: int | None = None, *, asked_to_end: bool) -> RunResult:
        """How it ended, by its own last word or else its exit code; written to `outcome.json`."""
        outcome = judge(self.trial, self.attempt, self.last_state, code, failed_rank, asked_to_end=asked_to_end)
        record(self.trial, self.attempt, outcome, code)
        # A part of the user's may end the process with any code: only what the job itself called wrong input is that.
        spoke = self.last_state is not None and self.last_state["state"] == "failed"
        exit_code = DONE if outcome.status == "finished" else WRONG_INPUT if code == WRONG_INPUT and spoke else FAILED
        return RunResult(self.trial, self.attempt, outcome.status, outcome.reason, exit_code, self.metrics)


def _hold(trial: Trial) -> TextIO:
    """Hold the run, as the first and only one.

    Raises:
        InputError: somebody is at work on it.
    """
    name = trial.folder.name
    try:
        return lock_run(trial.folder, first=True)
    except BlockingIOError as err:
        raise InputError([f"run '{name}' is still at work{_where(trial)}; wait for its end, or stop it there"]) from err
    except OSError as err:
        raise InputError([f"run '{name}' cannot be held: {err.strerror} ({err.filename}); make it writable"]) from err


def _where(trial: Trial) -> str:
    attempts = trial.attempts()
    events = journal.read(attempts[-1] / "journal.jsonl")[0] if attempts else []
    states = [event for event in events if event["event"] == "state"]
    return f" (process {states[-1]['pid']} on {states[-1]['host']})" if states else ""


def _new_attempt(trial: Trial, changes: Mapping[str, Any] | None) -> int:
    """Make the folder of the next attempt, with what it does otherwise than the trial.

    Raises:
        InputError: it cannot be made.
    """
    attempts = trial.attempts()
    number = int(attempts[-1].name) + 1 if attempts else 1
    folder = trial.folder / "attempts" / str(number)
    try:
        folder.mkdir(parents=True)
        if changes:
            write_text(folder / "changed.yaml", yaml.safe_dump(dict(changes), sort_keys=False, allow_unicode=True))
    except FileExistsError as err:
        raise InputError([f"run '{trial.folder.name}' was started by someone else this moment; wait for it"]) from err
    except OSError as err:
        raise InputError([f"{folder} cannot be made: {err.strerror}; free space, or make it writable"]) from err
    return number


class _Signals:
    """Passes Ctrl-C and SIGTERM on: the first asks the job to save and stop, the second ends it at once."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.count = 0

    def __enter__(self) -> _Signals:
        try:
            self.before = {number: signal.signal(number, self._pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread, as in some notebooks: signals are then the caller's affair
            self.before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Print nothing: what is interrupted here may be printing."""
        self.count += 1
        self.handle.signal(number if self.count == 1 else signal.SIGKILL)


def start_sync(trial: Trial, attempt: int) -> subprocess.Popen[str]:
    """Start the process that brings a run to the store while it trains."""
    module = [sys.executable, "-P", "-m", "experiments.tracking.follow_run"]
    command = [*module, str(trial.folder), "--attempt", str(attempt)]
    log = (trial.folder / "attempts" / str(attempt) / "sync.log").open("w")
    with log:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )


def _finish_sync(watch: _AttemptMonitor, result: RunResult) -> None:
    """Let the sync bring what is left; it gives up by itself where the store does not answer."""
    if watch.trial.config["tracking"]["sync"] == "off":
        return
    if watch.sync is None:
        watch.start_sync()
    later = f"MLflow's store does not have all of this run yet; later: `lathe sync {watch.trial.reference}`"
    if watch.sync is None:
        watch.display.say(later)
        return
    assert watch.sync.stdin is not None
    watch.sync.stdin.close()  # which tells it that the attempt is over, also where a full disk took no outcome
    try:
        with watch.display.waiting("bringing the run to MLflow"):
            watch.sync.wait(LONGEST_SYNC_S)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        watch.display.say(f"the sync goes on in the background (process {watch.sync.pid})")
    for line in (watch.folder / "sync.log").read_text().splitlines():
        with contextlib.suppress(ValueError):
            told = json.loads(line)
            result.mlflow |= told if isinstance(told, dict) else {}
    if result.mlflow.get("warning"):
        watch.display.say(f"warning: {result.mlflow['warning']}")
    if watch.sync.poll():
        error = result.mlflow.get("error")
        watch.display.say(f"warning: {error}" if error else later)
