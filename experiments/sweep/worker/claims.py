"""Claims the next trial for a worker: a pending one, or one that the strategy chooses."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.config.validate import check_config
from experiments.core.errors import InputError
from experiments.run import journal
from experiments.run.failure import CONFIG, DISK, PREEMPTED, TIMEOUT
from experiments.run.folder_watch import try_again_once_back
from experiments.sweep.budget import find_spent_limit, has_points_left
from experiments.sweep.expand import expand_point
from experiments.sweep.ledger import ClaimLostError, Entry, Ledger, LedgerState
from experiments.sweep.sweep import Sweep
from experiments.sweep.templates import Templates
from experiments.trial.trial import Trial, fingerprint_data, trial_id, write_trial

if TYPE_CHECKING:
    from experiments.sweep.study import Study


@dataclass(frozen=True)
class Claim:
    """One attempt at one trial, which only this worker runs."""

    entry: Entry
    trial: Trial
    attempt: int


class TrialQueue:
    """The trials that one worker can claim."""

    def __init__(
        self, sweep: Sweep, ledger: Ledger, templates: Templates, study: Study | None, *, worker: str, devices: int
    ) -> None:
        """
        Args:
            sweep: the sweep that the trials belong to.
            ledger: this process's view of its ledger.
            templates: make the configuration of a trial.
            study: chooses a point if no trial is pending; None: the strategy has no study.
            worker: name of the worker.
            devices: number of devices of one trial.
        """
        self.sweep, self.ledger, self.templates, self.study = sweep, ledger, templates, study
        self.worker, self.devices = worker, devices

    def claim(self) -> Claim | None:
        """Claim the next trial; None if there is none."""
        while True:
            with contextlib.suppress(ClaimLostError):
                return self._claim()

    def _claim(self) -> Claim | None:
        spec = self.sweep.spec
        with self.ledger.locked() as ledger_state:
            if ledger_state.closed is not None:
                return None
            if (reason := find_spent_limit(spec["budget"], ledger_state)) is not None:
                self.ledger.close(reason)
                return None
            entry = self._next_pending(ledger_state)
            # Not once: a point that repeats an earlier one has its result at once, and leaves nothing to run.
            while entry is None and self.sweep.is_adaptive and has_points_left(spec["budget"], ledger_state):
                assert self.study is not None
                if not self._add_point(self.study, ledger_state):
                    return None
                entry = self._next_pending(ledger_state)
            if entry is None:
                return None
            # First, by the file server's clock: no other worker may miss it because the clocks of two machines differ.
            with contextlib.suppress(OSError):  # reported below
                _make_attempt_folder(self.sweep.trial(entry), entry.attempt + 1)
            attempt = self.ledger.claim(entry, worker=self.worker, host=socket.gethostname(), devices=self.devices)
        return self._prepare(entry, attempt)

    def _next_pending(self, ledger_state: LedgerState) -> Entry | None:
        """The next pending trial: preempted ones first, those that lost a worker last.

        A trial that also ends its worker, for example by using all memory, must not block the others.
        """
        pending = [entry for entry in ledger_state.entries.values() if entry.state == "pending"]
        return min(pending, key=lambda entry: (_priority(entry), entry.point), default=None)

    def _add_point(self, study: Study, ledger_state: LedgerState) -> bool:
        """Ask the strategy for a point, and add a trial for each seed. If its code fails, no more trials start: return False."""
        from experiments.sweep.study import StrategyError

        try:
            values = study.ask()
        except StrategyError as err:
            self.ledger.close(str(err))
            return False
        point = max((entry.point for entry in ledger_state.entries.values()), default=-1) + 1
        trials = expand_point(self.sweep.spec, self.templates, ledger_state, point, values, may_be_wrong=True)
        self.ledger.add(trials)
        return True

    def _prepare(self, entry: Entry, attempt: int) -> Claim | None:
        """Create the folders of the trial and its attempt. If that fails, record it in the ledger and return None."""
        trial = self.sweep.trial(entry)
        try:
            try_again_once_back(self.sweep.folder, lambda: self._prepare_folder(entry, trial, attempt))
        except (OSError, InputError) as err:
            failure = CONFIG if isinstance(err, InputError) else DISK
            with self.ledger.locked():
                self.ledger.end(entry.id, attempt, "failed", failure=failure, reason=str(err), wasted=True)
            return None
        return Claim(entry, trial, attempt)

    def _prepare_folder(self, entry: Entry, trial: Trial, attempt: int) -> None:
        trial.folder.mkdir(exist_ok=True)
        if not (trial.folder / "trial.yaml").exists():
            self._write_trial(entry, trial)
        else:  # another process wrote it
            check_config(trial.config, self.sweep.trust, f"trial {entry.id}", with_rules=False)
        journal.set_aside_incomplete(trial.folder)
        for path in journal.journals(trial.folder):
            journal.seal(path)
        _make_attempt_folder(trial, attempt)
        (trial.folder / "outcome.json").unlink(missing_ok=True)

    def _write_trial(self, entry: Entry, trial: Trial) -> None:
        config, overrides = self.templates.fill(entry.values, entry.seed)
        provenance = {
            "trial_id": trial_id(config),
            "run_key": f"{self.sweep.key}-{entry.id}",
            "created": time.time(),
            "overrides": overrides,
            "sweep": self.sweep.name,
            "seeds": {"seed": config["seed"]},
            "data": fingerprint_data(config["data"]),
        }
        write_trial(trial.folder, config, provenance)

    def read_heartbeats(self) -> dict[tuple[str, int], float]:
        """Time of the last heartbeat of each running attempt; 0 if it has none yet."""
        times: dict[tuple[str, int], float] = {}
        for entry in self.ledger.read().entries.values():
            if entry.state == "running":
                path = self.sweep.trial(entry).folder / "attempts" / str(entry.attempt) / "heartbeat"
                times[entry.id, entry.attempt] = path.stat().st_mtime if path.exists() else 0.0
        return times


def _make_attempt_folder(trial: Trial, attempt: int) -> None:
    """Make the folder of an attempt with its heartbeat; the sweep's folder must be there, and is not made again."""
    folder = trial.folder / "attempts" / str(attempt)
    for each in (trial.folder, folder.parent, folder):
        each.mkdir(exist_ok=True)
    (folder / "heartbeat").touch()


def _priority(entry: Entry) -> int:
    if entry.attempt == 0:
        return 1
    return 0 if entry.failure in (PREEMPTED, TIMEOUT) else 2
