"""How a worker comes by its next trial: one that waits, or one that the strategy is asked for."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.core.errors import InputError
from experiments.run import journal
from experiments.run.failure import CONFIG, DISK, PREEMPTED, TIMEOUT
from experiments.sweep.budget import find_spent_limit, has_points_left
from experiments.sweep.expand import expand_point
from experiments.sweep.ledger import Entry, Ledger, LedgerState
from experiments.sweep.sweep import Sweep
from experiments.sweep.templates import Templates
from experiments.trial.trial import Trial, fingerprint_data, trial_id, write_trial

if TYPE_CHECKING:
    from experiments.sweep.study import Study


@dataclass(frozen=True)
class Claim:
    """One attempt at one trial, which is this worker's alone."""

    entry: Entry
    trial: Trial
    attempt: int


class TrialQueue:
    """Those of one worker."""

    def __init__(
        self, sweep: Sweep, ledger: Ledger, templates: Templates, study: Study | None, *, worker: str, devices: int
    ) -> None:
        """
        Args:
            sweep: whose trials.
            ledger: this process's view.
            templates: what points are filled into.
            study: what is asked for points where none waits; None: nothing is.
            worker: its name.
            devices: that one trial takes.
        """
        self.sweep, self.ledger, self.templates, self.study = sweep, ledger, templates, study
        self.worker, self.devices = worker, devices

    def take(self) -> Claim | None:
        """The next trial; None where there is none to begin."""
        spec = self.sweep.spec
        with self.ledger.locked() as ledger_state:
            if ledger_state.closed is not None:
                return None
            if (why := find_spent_limit(spec["budget"], ledger_state)) is not None:
                self.ledger.close(why)
                return None
            entry = self._waiting(ledger_state)
            if entry is None and self.sweep.is_adaptive and has_points_left(spec["budget"], ledger_state):
                assert self.study is not None
                self._ask(self.study, ledger_state)
                entry = self._waiting(ledger_state)
            if entry is None:
                return None
            attempt = self.ledger.claim(entry, worker=self.worker, host=socket.gethostname(), devices=self.devices)
        return self._prepare(entry, attempt)

    def _waiting(self, ledger_state: LedgerState) -> Entry | None:
        """Of those that wait first one that was told to make room, last one with which a worker was lost.

        What ends the worker too, say a machine that runs out of memory, shall not keep it from all others.
        """
        waiting = [entry for entry in ledger_state.entries.values() if entry.state == "pending"]
        return min(waiting, key=lambda entry: (_turn(entry), entry.point), default=None)

    def _ask(self, study: Study, ledger_state: LedgerState) -> None:
        """Let the strategy choose a point, and add a trial for each of its seeds."""
        values = study.ask()
        point = max((entry.point for entry in ledger_state.entries.values()), default=-1) + 1
        trials = expand_point(self.sweep.spec, self.templates, ledger_state, point, values, may_be_wrong=True)
        self.ledger.add(trials)

    def _prepare(self, entry: Entry, attempt: int) -> Claim | None:
        """Make the trial a run folder, with one for the attempt; None where that fails, which the ledger then says."""
        trial = self.sweep.trial(entry)
        try:
            trial.folder.mkdir(exist_ok=True)
            if not (trial.folder / "trial.yaml").exists():
                self._write(entry, trial)
            for path in journal.journals(trial.folder):
                journal.seal(path)
            folder = trial.folder / "attempts" / str(attempt)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "heartbeat").touch()
            (trial.folder / "outcome.json").unlink(missing_ok=True)
        except (OSError, InputError) as err:
            failure = CONFIG if isinstance(err, InputError) else DISK
            with self.ledger.locked():
                self.ledger.end(entry.id, attempt, "failed", failure=failure, reason=str(err), wasted=True)
            return None
        return Claim(entry, trial, attempt)

    def _write(self, entry: Entry, trial: Trial) -> None:
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

    def beats(self) -> dict[tuple[str, int], float]:
        """When the worker of each attempt that runs elsewhere gave its last sign of life; 0 where it gave none yet."""
        found: dict[tuple[str, int], float] = {}
        for entry in self.ledger.read().entries.values():
            if entry.state == "running":
                beat = self.sweep.trial(entry).folder / "attempts" / str(entry.attempt) / "heartbeat"
                found[entry.id, entry.attempt] = beat.stat().st_mtime if beat.exists() else 0.0
        return found


def _turn(entry: Entry) -> int:
    if entry.attempt == 0:
        return 1
    return 0 if entry.failure in (PREEMPTED, TIMEOUT) else 2
