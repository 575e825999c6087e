"""Runs one attempt of a trial: heartbeat, stop requests, pruning, and the entry in the ledger at the end."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from experiments.launch.forked_process import count_oom_kills
from experiments.launch.outcome import Outcome, determine_outcome, write_outcome
from experiments.launch.rank_group import RankGroup
from experiments.launch.stop import TOO_SLOW, get_stop_timeout_s, kill_limit_s
from experiments.launch.wakeup import SignalWaiter
from experiments.run import journal
from experiments.run.failure import CANCELLED, CONFIG, EXCEPTION, HOST_MEMORY, KILLED, PREEMPTED, RETRYABLE, TIMEOUT
from experiments.run.folder_watch import FolderWatch
from experiments.run.metrics import delivered_name, delivered_value, read_summaries
from experiments.run.state import is_cancel_requested
from experiments.sweep.ledger import Ledger, State
from experiments.sweep.sweep import Sweep
from experiments.sweep.worker.claims import Claim

if TYPE_CHECKING:
    from experiments.sweep.study import Study

HEARTBEAT_S = 5.0
POLL_S = 1.0
PRUNE_POLL_S = 0.2


class TrialRunner:
    """Runs one attempt on the ranks of this worker."""

    def __init__(
        self, sweep: Sweep, ledger: Ledger, study: Study | None, rank_group: RankGroup, signal_waiter: SignalWaiter, claim: Claim,
        time_is_up: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.sweep, self.ledger, self.study, self.rank_group, self.signal_waiter = (
            sweep,
            ledger,
            study,
            rank_group,
            signal_waiter,
        )
        self.claim, self.time_is_up = claim, time_is_up
        self.folder = claim.trial.folder / "attempts" / str(claim.attempt)
        self.metric: str = sweep.spec["metric"]
        self.prunes = study is not None and sweep.spec["pruner"] is not None
        self._offset = 0
        self._last_state: journal.StateEvent | None = None
        self._stop_reason: str | None = None
        """Why the attempt has to stop: a failure class, or "pruned"."""
        self._is_fenced = self._is_too_slow = False
        self._kill_limit_s = kill_limit_s(get_stop_timeout_s(claim.trial.config))
        self._watch = FolderWatch(self.folder)
        self._heartbeat_at = self._polled_at = self._stopped_at = 0.0

    def run(self, trust: tuple[str, ...]) -> None:
        """Run the attempt to its end, and record it in the ledger."""
        oom_kills_before = count_oom_kills()
        self.rank_group.start(self.claim.trial, self.claim.attempt, trust)
        pause_s = PRUNE_POLL_S if self.prunes else POLL_S
        while (code := self.rank_group.wait(pause_s)) is None:
            self._check()
        self._read_journal()
        outcome = determine_outcome(
            self.claim.trial,
            self.claim.attempt,
            self._last_state,
            code,
            self.rank_group.failed_rank,
            was_killed_by_us=self._is_fenced,
        )
        if outcome.failure == KILLED and self._is_too_slow:
            outcome = Outcome("killed", f"it did not stop within {self._kill_limit_s:.0f} s, {TOO_SLOW}", KILLED)
        elif outcome.failure == KILLED and count_oom_kills() > oom_kills_before:
            message = "the machine ran out of memory and its kernel killed the trial; lower batch_size_per_device"
            outcome = Outcome(outcome.status, message, HOST_MEMORY)
        self._record_end(outcome, code)

    def _check(self) -> None:
        now = time.monotonic()
        if now - self._heartbeat_at > HEARTBEAT_S:
            self._send_heartbeat()
            self._heartbeat_at = now
        if self.signal_waiter.stop_signal is not None and self._stop_reason is None:
            self._stop(TIMEOUT if self.time_is_up() else PREEMPTED)
        if now - self._polled_at > POLL_S and self._stop_reason is None:
            self._polled_at = now
            if is_cancel_requested(self.folder):
                self._stop(CANCELLED)
        if self._watch.is_gone():
            self.rank_group.signal(signal.SIGKILL)  # what it still computes cannot be kept
        if self.prunes:
            self._read_journal()
        if self._stop_reason is not None and now - self._stopped_at > self._kill_limit_s:
            self.rank_group.signal(signal.SIGKILL)
            self._is_fenced = self._is_too_slow = True

    def _send_heartbeat(self) -> None:
        """Touch the heartbeat; end the attempt at once if another one has replaced it."""
        with contextlib.suppress(OSError):  # the folder may be removed; a full disk does not matter
            (self.folder / "heartbeat").touch()  # also creates it again after it was removed
        entry = self.ledger.read().entries[self.claim.entry.id]
        if entry.state != "running" or entry.attempt != self.claim.attempt:
            self._is_fenced = True
            self.rank_group.signal(signal.SIGKILL)

    def _stop(self, reason: str) -> None:
        """Ask all ranks to save and stop."""
        self._stop_reason, self._stopped_at = reason, time.monotonic()
        self.rank_group.signal(signal.SIGTERM)

    def _read_journal(self) -> None:
        events, self._offset = journal.read(self.folder / "journal.jsonl", self._offset)
        for event in events:
            if event["event"] == "state":
                self._last_state = event
            elif (
                event["event"] == "metrics"
                and self.metric in event["metrics"]
                and self.prunes
                and self._stop_reason is None
            ):
                self._prune_if_bad(event["step"], event["metrics"][self.metric])

    def _prune_if_bad(self, step: int, value: float) -> None:
        """Ask the pruner. If its code fails, this trial runs to its end, and no more trials start."""
        if self.study is None:
            return
        from experiments.sweep.study import StrategyError

        try:
            if self.study.should_prune(self.ledger, self.claim.entry, step, value):
                self._stop("pruned")
        except StrategyError as err:
            self.prunes = False
            with self.ledger.locked() as ledger_state:
                if ledger_state.closed is None:
                    self.ledger.close(str(err))

    def _record_end(self, outcome: Outcome, code: int) -> None:
        names = {self.metric, delivered_name(self.metric)}
        measured = read_summaries(self.claim.trial.folder, names)
        value = delivered_value(measured, self.metric, self.sweep.spec["mode"])
        state, failure, reason = self._determine_state(outcome, value, is_measured=bool(measured))
        step = self._last_state["step"] if self._last_state else 0
        is_saved = any((self.claim.trial.folder / "checkpoints").glob("step_*"))
        is_wasted = state not in ("finished", "pruned") and not (state in ("pending", "cancelled") and is_saved)
        with self.ledger.locked():
            is_own = self.ledger.end(
                self.claim.entry.id, self.claim.attempt, state, value=value, step=step,
                failure=failure, reason=reason, wasted=is_wasted,
            )  # fmt: skip
        if is_own:
            write_outcome(self.claim.trial, self.claim.attempt, Outcome(outcome.status, reason, failure), code)

    def _determine_state(
        self, outcome: Outcome, value: float | None, *, is_measured: bool
    ) -> tuple[State, str | None, str | None]:
        """New state of the trial, failure class and reason."""
        if outcome.status == "finished":
            if value is None and is_measured:
                return (
                    "failed",
                    EXCEPTION,
                    f"sweep.metric={self.metric} is not a number (NaN) for the weights that the trial delivers; lower "
                    "optimizer.lr, or correct the evaluator",
                )
            if value is None:
                return (
                    "failed",
                    CONFIG,
                    f"sweep.metric={self.metric} was not measured; choose a metric that the evaluator computes",
                )
            return "finished", None, None
        step = self._last_state["step"] if self._last_state else 0
        if self._stop_reason == "pruned" and outcome.status == "interrupted":
            return (
                "pruned",
                None,
                f"{self.sweep.spec['pruner']['name']} stopped the trial after step {step}: other trials were better at this step",
            )
        if self._stop_reason == CANCELLED:
            return "cancelled", CANCELLED, "cancelled by `lathe cancel`"
        failure = outcome.failure or KILLED
        if self._stop_reason is not None and outcome.status in ("interrupted", "killed"):
            failure = self._stop_reason
        if failure not in RETRYABLE:
            return "failed", failure, outcome.reason
        entry = self.claim.entry
        if entry.attempts >= self.sweep.spec["max_attempts"]:
            return "failed", failure, f"{outcome.reason}; no attempt is left (sweep.max_attempts={entry.attempts})"
        return "pending", failure, outcome.reason
