"""The launching side of a run: starts an attempt, shows it, brings it to the store and says how it ended."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from experiments import journal
from experiments.atomic import write_text
from experiments.build import build
from experiments.display import Display
from experiments.faults import InputError
from experiments.plan import make_plan
from experiments.standing import process_alive
from experiments.targets import trusted
from experiments.trial import Trial
from launchers.base import Assignment, Handle, LaunchError

Status = Literal["finished", "failed", "stopped", "killed"]
POLL_S = 0.05


@dataclass
class Result:
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
    """What the sync said last: run_id, experiment_id, pending, error."""


def run(
    trial: Trial, *, trust: Sequence[str] = (), display: Display | None = None, warm_job: object | None = None
) -> Result:
    """Run a frozen trial to its end, from its last checkpoint where it has one.

    Args:
        trial: what `freeze` gave; its folder gets a new attempt.
        trust: packages beyond the house's own whose classes the trial may name.
        display: shows progress; None: lines on standard error.
        warm_job: a `launchers.local.Job` that was started ahead.

    Raises:
        InputError: an attempt at this run is still going on, or the trial cannot run.
        LaunchError: the machine refuses another process.
    """
    plan = make_plan(trial.config)
    packages = trusted(trust)
    launcher = build(trial.config["launcher"], "launcher", packages)
    if warm_job is not None and hasattr(launcher, "warm"):
        launcher.warm(warm_job)
    attempt = _new_attempt(trial)
    shown = display or Display(sys.stderr)
    handle: Handle = launcher.launch(Assignment(trial.folder, attempt, packages))
    watch = _Watch(trial, attempt, shown)
    with _signals_go_to(handle, shown), shown.training(plan):
        while handle.poll() is None:
            watch.look()
            time.sleep(POLL_S)
        watch.look()
    result = watch.result(handle.poll())
    if watch.sync is not None or result.exit_code != 2:
        _finish_sync(watch, result, shown)
    return result


class _Watch:
    """What the launching side knows of an attempt: the tail of its journal."""

    def __init__(self, trial: Trial, attempt: int, display: Display) -> None:
        self.trial, self.attempt, self.display = trial, attempt, display
        self.folder = trial.folder / "attempts" / str(attempt)
        self.offset = 0
        self.metrics: dict[str, float] = {}
        self.last_state: journal.StateEvent | None = None
        self.sync: subprocess.Popen[str] | None = None

    def look(self) -> None:
        """Read on."""
        try:
            events, self.offset = journal.read(self.folder / "journal.jsonl", self.offset)
        except FileNotFoundError:
            return
        for event in events:
            if event["event"] == "metrics":
                self.metrics |= event["metrics"]
                self.display.metrics(event["step"], event["metrics"], self.metrics)
            elif event["event"] == "state":
                self.last_state = event
                if event["state"] == "running":
                    self.display.started(event["step"])
        # MLflow's import takes seconds of CPU: it waits until the first step is done.
        if self.sync is None and self.metrics and self.trial.config["tracking"]["sync"] == "live":
            self.sync = start_sync(self.trial, self.attempt)

    def result(self, code: int | None) -> Result:
        """How it ended, by its exit code and its own last word; written to `outcome.json`."""
        state = self.last_state["state"] if self.last_state else None
        reason = self.last_state["reason"] if self.last_state else None
        status: Status
        if code == 0 and state == "finished":
            status = "finished"
        elif code is not None and code < 0:
            status, reason = "killed", f"ended by {signal.Signals(-code).name}"
        elif state == "stopped":
            status = "stopped"
        else:
            status, reason = "failed", reason or f"the job ended with code {code}; see {self.folder / 'log.txt'}"
        outcome = {"status": status, "attempt": self.attempt, "reason": reason, "exit_code": code, "ended": time.time()}
        with contextlib.suppress(OSError):  # a full disk: the journal's own last word stands then
            write_text(self.trial.folder / "outcome.json", json.dumps(outcome) + "\n")
        exit_code = 0 if status == "finished" else code if code in (1, 2) else 1
        metrics = {key: value for e in _all_metrics(self.trial) for key, value in e.items()}
        return Result(self.trial, self.attempt, status, reason, exit_code, metrics)


def _all_metrics(trial: Trial) -> Iterator[dict[str, float]]:
    for event in journal.replay(trial.folder):
        if event["event"] == "metrics":
            yield event["metrics"]


def _new_attempt(trial: Trial) -> int:
    """Make the folder of the next attempt.

    Raises:
        InputError: the last attempt is still at work.
    """
    attempts = trial.attempts()
    if attempts and trial.outcome() is None:
        pid = _living(attempts[-1])
        if pid is not None:
            raise InputError(
                [f"run '{trial.folder.name}' is still at work (process {pid}); wait, or `kill -TERM {pid}`"]
            )
    number = int(attempts[-1].name) + 1 if attempts else 1
    folder = trial.folder / "attempts" / str(number)
    try:
        folder.mkdir(parents=True)
    except FileExistsError as err:
        raise InputError([f"run '{trial.folder.name}' was started by someone else this moment; wait for it"]) from err
    except OSError as err:
        raise InputError([f"{folder} cannot be made: {err.strerror}; free space, or make it writable"]) from err
    (trial.folder / "outcome.json").unlink(missing_ok=True)
    return number


def _living(attempt: Path) -> int | None:
    """Process of an attempt that still runs on this machine."""
    with contextlib.suppress(FileNotFoundError):
        for event in reversed(journal.read(attempt / "journal.jsonl")[0]):
            if event["event"] == "state":
                running = event["state"] == "running" and process_alive(event["host"], event["pid"], event["time"])
                return event["pid"] if running else None
    return None


@contextlib.contextmanager
def _signals_go_to(handle: Handle, display: Display) -> Iterator[None]:
    """Pass Ctrl-C and SIGTERM on: the first asks the job to save and stop, the second ends it at once."""
    count = 0

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count == 1:
            display.say("stopping: a checkpoint is being saved (once more: end at once)")
        handle.signal(number if count == 1 else signal.SIGKILL)

    try:
        before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, as in some notebooks: signals are then the caller's affair
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start_sync(trial: Trial, attempt: int) -> subprocess.Popen[str]:
    """Start the process that brings a run to the store while it trains."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "experiments.follow",
        "--follow",
        str(trial.folder),
        "--attempt",
        str(attempt),
    ]
    log = (trial.folder / "attempts" / str(attempt) / "sync.log").open("w")
    with log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def _finish_sync(watch: _Watch, result: Result, display: Display) -> None:
    """Let the sync bring what is left; it gives up by itself where the store does not answer."""
    if watch.trial.config["tracking"]["sync"] == "off":
        return
    process = watch.sync or start_sync(watch.trial, watch.attempt)
    try:
        with display.waiting("bringing the run to MLflow"):
            process.wait()
    except KeyboardInterrupt:
        display.say(f"the sync goes on in the background (process {process.pid})")
    for line in (watch.folder / "sync.log").read_text().splitlines():
        with contextlib.suppress(ValueError):
            result.mlflow |= json.loads(line)
    if process.poll():
        display.say(f"MLflow's store does not have all of this run yet; later: `lathe sync {watch.trial.folder.name}`")


__all__ = ["LaunchError", "Result", "run", "start_sync"]
