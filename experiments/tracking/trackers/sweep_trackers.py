"""Copies the trials of a sweep to the trackers besides MLflow, each as a run of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress

from experiments.core import atomic
from experiments.core.files.read_file import DamagedFileError, read_json_map
from experiments.run import evaluations
from experiments.run.annotations import FILE
from experiments.run.state import RunState
from experiments.sweep.ledger import ENDED, Entry
from experiments.sweep.sweep import Sweep
from experiments.tracking import sweep_tags
from experiments.tracking.run_sync import RunSync
from experiments.tracking.run_tags import SweepMember
from experiments.tracking.store_uri import StoreError
from experiments.tracking.trackers.make_tracker import MLFLOW, list_trackers
from experiments.trial.trial import Trial

MAX_FAILURES_IN_A_ROW = 3
"""After this many refused trials in a row, the other trials wait for the next sync."""


def make_member(sweep: Sweep, entry: Entry, name: str, parent: str = "") -> SweepMember:
    """What a sweep knows about the run of a trial.

    Args:
        sweep: of the trial.
        entry: of the ledger.
        name: of the run.
        parent: id of the sweep's run in MLflow.
    """
    return SweepMember(
        name=name,
        tags=sweep_tags.make_trial_tags(sweep, entry, parent),
        params=sweep_tags.make_swept_params(entry),
        # From the ledger alone; the processes of one host do not matter.
        state=RunState(
            entry.state, entry.attempt, entry.since if entry.state in ENDED else None, entry.reason, entry.failure
        ),
        since=entry.since,
        measured=sweep_tags.make_cost_event(entry),
    )


def make_mark(trial: Trial, entry: Entry, name: str) -> str:
    """Describe what there is of a trial that has ended; what is copied under the same mark is complete."""
    mark = f"{entry.state} {entry.attempt} {entry.since} {name}"
    if count := len(evaluations.list_finished(trial.folder)):
        mark += f" {count} evaluations"
    with suppress(FileNotFoundError):
        mark += f" annotated {(trial.folder / FILE).stat().st_mtime_ns}"
    return mark


class SweepTrackers:
    """The trackers of a sweep except MLflow. A trial whose end a tracker has is not read again."""

    def __init__(self, sweep: Sweep, config: Mapping[str, object]) -> None:
        """
        Args:
            sweep: its trials are copied.
            config: of one of its trials; all share the trackers.
        """
        self._sweep, self._path = sweep, sweep.folder / "sync_trackers.json"
        self.labels = [label for label in list_trackers(config) if label != MLFLOW]
        self._syncs: dict[tuple[str, str], RunSync] = {}

    def sync(self, entries: Sequence[Entry], names: Mapping[str, str]) -> tuple[int, list[StoreError]]:
        """Copy what is new; return the number of points and the failures. The caller holds the lock of the sweep.

        Args:
            entries: trials that a worker has claimed.
            names: of their runs, by id.
        """
        if not self.labels:
            return 0, []
        try:
            done: dict[str, str] = read_json_map(self._path)
        except DamagedFileError:  # missing, too
            done = {}
        before, points, failures = dict(done), 0, list[StoreError]()
        for label in self.labels:
            refusals = 0
            for entry in entries:
                trial = self._sweep.trial(entry)
                key, mark = f"{label} {entry.id}", make_mark(trial, entry, names[entry.id])
                is_known = entry.state != "running" and done.get(key) == mark
                if is_known or not (trial.folder / "trial.yaml").exists():
                    continue
                run = self._syncs.setdefault((label, entry.id), RunSync(trial, self._sweep.trust, label))
                try:
                    points += run.sync(reconcile=False, member=make_member(self._sweep, entry, names[entry.id])).points
                except StoreError as err:
                    failures.append(err)
                    refusals += 1
                    if refusals == MAX_FAILURES_IN_A_ROW:
                        break
                    continue
                refusals, done[key] = 0, mark
                if entry.state != "running":
                    del self._syncs[label, entry.id]
        if done != before:
            atomic.write_text(self._path, json.dumps(done, indent=0) + "\n")
        return points, failures
