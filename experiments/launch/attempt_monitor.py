"""What the launching side knows of an attempt: it follows the journal and the logs, shows them, and keeps MLflow in sync."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from experiments.core.console import Display
from experiments.launch.outcome import Status, determine_outcome, write_outcome
from experiments.launch.stop import TOO_SLOW, get_stop_timeout_s, kill_limit_s
from experiments.run import journal
from experiments.run.metrics import read_last_values
from experiments.run.rank_reports import RankLogs
from experiments.trial.trial import Trial
from launchers.base import DONE, FAILED, WRONG_INPUT, module_command


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
    warnings: tuple[str, ...] = ()
    """Of the training, such as examples that were skipped."""


class AttemptMonitor:
    """What the launching side knows of an attempt: the tail of its journal."""

    def __init__(
        self, trial: Trial, attempt: int, display: Display, num_ranks: int, trust: tuple[str, ...] = ()
    ) -> None:
        """
        Args:
            trial: the run.
            attempt: number of the attempt.
            display: shows progress.
            num_ranks: whose logs are shown too.
            trust: packages whose code the logged model may include.
        """
        self.trial, self.attempt, self.display, self.trust = trial, attempt, display, trust
        self.folder = trial.folder / "attempts" / str(attempt)
        self.logs = RankLogs(self.folder, num_ranks)
        self.stop_timeout_s = get_stop_timeout_s(trial.read_attempt_config(attempt))
        self.offset = 0
        self.warnings: list[str] = []
        self.metrics = read_last_values(trial.folder)
        self._highest = journal.highest_steps(journal.journals(trial.folder, attempt))
        self.last_state: journal.StateEvent | None = None
        self.sync: subprocess.Popen[str] | None = None
        self.progress_at = time.monotonic()
        """Time of the last event, besides the load of the machine."""
        self.has_steps = False
        self.num_signals = 0

    def update(self, num_signals: int = 0, *, has_ended: bool = False) -> None:
        """Read the new events and log lines, and show them.

        Args:
            num_signals: that this process has forwarded.
            has_ended: whether the training has ended.
        """
        events, self.offset = journal.read(self.folder / "journal.jsonl", self.offset)
        if lines := list(self.logs.new_lines(has_ended=has_ended)):
            self.say("\n".join(lines))
        for event in events:
            if event["event"] != "metrics" or not all(name.startswith("system/") for name in event["metrics"]):
                self.progress_at = time.monotonic()
            if event["event"] == "metrics":
                self._on_metrics(event)
            elif event["event"] == "state":
                self._on_state(event)
        if num_signals and not self.num_signals:  # after the events, which say whether the training has started
            self.say(self._describe_stop())
        self.num_signals = num_signals

    def _describe_stop(self) -> str:
        """Say when a training that was asked to stop ends, and whether it has something to save."""
        if self.trial.evaluates is not None:
            action = "the evaluation ends after this batch, and nothing of it is recorded"
        elif self.last_state is None:
            action = "the training has not started yet; it ends before its first step, with nothing to save"
        else:
            action = "the training ends after this step, and a checkpoint of it is saved"
        return f"stopping: {action} (a second signal ends it at once)"

    def _on_metrics(self, event: journal.MetricsEvent) -> None:
        latest = self.metrics | event["metrics"]
        self._show(lambda: self.display.metrics(event["step"], event["metrics"], latest))
        for new in journal.first_writes(
            [event], self._highest
        ):  # what repeats a step of an earlier attempt does not count
            self.metrics |= new["metrics"] if new["event"] == "metrics" else {}
        # The import of MLflow takes seconds of CPU, so it waits until the first step is done.
        if not self.has_steps and self.trial.config["tracking"]["sync"] == "live":
            self.start_sync()
        self.has_steps = True

    def _on_state(self, event: journal.StateEvent) -> None:
        self.last_state = event
        if event["state"] == "running" and event["reason"]:  # a warning, which the log shows
            self.warnings.append(event["reason"])
        elif event["state"] == "running":
            self._show(lambda: self.display.started(event["step"]))

    def say(self, text: str) -> None:
        """Show a text, if the terminal is still there."""
        self._show(lambda: self.display.say(text))

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
            outcome = replace(
                outcome, reason=f"it did not stop within {kill_limit_s(self.stop_timeout_s):.0f} s, {TOO_SLOW}"
            )
        write_outcome(self.trial, self.attempt, outcome, code)
        # User code may exit with any code, so code 2 counts as wrong input only if the attempt reported a failure.
        has_reported = self.last_state is not None and self.last_state["state"] == "failed"
        exit_code = (
            DONE if outcome.status == "finished" else WRONG_INPUT if code == WRONG_INPUT and has_reported else FAILED
        )
        warnings = tuple(dict.fromkeys(self.warnings))
        status, reason = outcome.status, outcome.reason
        return RunResult(self.trial, self.attempt, status, reason, exit_code, self.metrics, warnings=warnings)


def start_sync(trial: Trial, attempt: int, trust: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start the process that copies a run to its trackers while it trains.

    Args:
        trial: the run.
        attempt: number of the attempt.
        trust: packages whose code a tracker, and the logged model, may include.
    """
    module = [sys.executable, "-P", *module_command("experiments.tracking.follow_run")]
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


def finish_sync(monitor: AttemptMonitor, result: RunResult, timeout_s: float) -> None:
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
