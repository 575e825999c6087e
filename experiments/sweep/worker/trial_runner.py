"""Runs one attempt: heartbeat, requests to stop, pruning, and the ledger's entry at its end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from experiments.launch.forked_process import count_oom_kills
from experiments.launch.outcome import Outcome, determine_outcome, write_outcome
from experiments.launch.rank_group import RankGroup
from experiments.launch.wakeup import SignalWaiter
from experiments.run import journal
from experiments.run.failure import CANCELLED, CONFIG, HOST_MEMORY, KILLED, PREEMPTED, RETRYABLE, TIMEOUT
from experiments.run.metrics import read_best_value
from experiments.sweep.ledger import Ledger, State
from experiments.sweep.sweep import Sweep
from experiments.sweep.worker.claims import Claim

if TYPE_CHECKING:
    from experiments.sweep.study import Study

BEAT_S = 5.0
LOOK_S = 1.0
PRUNE_LOOK_S = 0.2
ABORT_S = 60.0
"""How long a trial may take to save and stop, before it is killed."""


class TrialRunner:
    """Runs one attempt."""

    def __init__(
        self, sweep: Sweep, ledger: Ledger, study: Study | None, crew: RankGroup, bell: SignalWaiter, claim: Claim,
        time_is_up: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.sweep, self.ledger, self.study, self.crew, self.bell = sweep, ledger, study, crew, bell
        self.claim, self.time_is_up = claim, time_is_up
        self.folder = claim.trial.folder / "attempts" / str(claim.attempt)
        self.metric: str = sweep.spec["metric"]
        self.prunes = study is not None and sweep.spec["pruner"] is not None
        self._offset = 0
        self._last_state: journal.StateEvent | None = None
        self._why: str | None = None
        """Why it has to stop: a failure class, or "pruned"."""
        self._is_fenced = False
        self._beat_at = self._looked_at = self._stopped_at = 0.0

    def run(self, trust: tuple[str, ...]) -> None:
        """Run the attempt to its end, and record it in the ledger."""
        starved_before = count_oom_kills()
        self.crew.start(self.claim.trial, self.claim.attempt, trust)
        pause_s = PRUNE_LOOK_S if self.prunes else LOOK_S
        while (code := self.crew.wait(pause_s)) is None:
            self._look()
        self._read_on()
        outcome = determine_outcome(
            self.claim.trial,
            self.claim.attempt,
            self._last_state,
            code,
            self.crew.failed_rank,
            was_killed_by_us=self._is_fenced,
        )
        if outcome.failure == KILLED and count_oom_kills() > starved_before:
            message = "the machine's memory ran out, and its kernel ended the trial; lower batch_size_per_device"
            outcome = Outcome(outcome.status, message, HOST_MEMORY)
        self._end(outcome, code)

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._beat_at > BEAT_S:
            self._beat()
            self._beat_at = now
        if self.bell.stop_signal is not None and self._why is None:
            self._stop(TIMEOUT if self.time_is_up() else PREEMPTED)
        if now - self._looked_at > LOOK_S and self._why is None:
            self._looked_at = now
            if (self.folder / "cancel").exists():
                self._stop(CANCELLED)
        if self.prunes:
            self._read_on()
        if self._why is not None and now - self._stopped_at > ABORT_S:
            self.crew.signal(signal.SIGKILL)
            self._is_fenced = True

    def _beat(self) -> None:
        """Touch the heartbeat; end the attempt at once if another one has replaced it."""
        with contextlib.suppress(OSError):  # the folder was removed; a full disk is no problem
            os.utime(self.folder / "heartbeat")
        entry = self.ledger.read().entries[self.claim.entry.id]
        if entry.state != "running" or entry.attempt != self.claim.attempt:
            self._is_fenced = True
            self.crew.signal(signal.SIGKILL)

    def _stop(self, why: str) -> None:
        """Ask all ranks to save and stop."""
        self._why, self._stopped_at = why, time.monotonic()
        self.crew.signal(signal.SIGTERM)

    def _read_on(self) -> None:
        events, self._offset = journal.read(self.folder / "journal.jsonl", self._offset)
        for event in events:
            if event["event"] == "state":
                self._last_state = event
            elif event["event"] == "metrics" and self.metric in event["metrics"] and self.prunes and self._why is None:
                self._consider(event["step"], event["metrics"][self.metric])

    def _consider(self, step: int, value: float) -> None:
        if self.study is not None and self.study.should_prune(self.ledger, self.claim.entry, step, value):
            self._stop("pruned")

    def _end(self, outcome: Outcome, code: int) -> None:
        value = read_best_value(self.claim.trial.folder, self.metric, self.sweep.spec["mode"])
        state, failure, reason = self._verdict(outcome, value)
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

    def _verdict(self, outcome: Outcome, value: float | None) -> tuple[State, str | None, str | None]:
        """New state of the trial, failure class and reason."""
        if outcome.status == "finished":
            if value is None:
                return (
                    "failed",
                    CONFIG,
                    f"sweep.metric={self.metric} was not measured; name one that the evaluator gives",
                )
            return "finished", None, None
        step = self._last_state["step"] if self._last_state else 0
        if self._why == "pruned" and outcome.status == "interrupted":
            return (
                "pruned",
                None,
                f"{self.sweep.spec['pruner']['name']} ended it after step {step}: others were better by then",
            )
        if self._why == CANCELLED:
            return "cancelled", CANCELLED, "by `lathe cancel`"
        failure = outcome.failure or KILLED
        if self._why is not None and outcome.status in ("interrupted", "killed"):
            failure = self._why
        if failure not in RETRYABLE:
            return "failed", failure, outcome.reason
        entry = self.claim.entry
        if entry.attempts >= self.sweep.spec["max_attempts"]:
            return "failed", failure, f"{outcome.reason}; sweep.max_attempts={entry.attempts} are used up"
        return "pending", failure, outcome.reason
