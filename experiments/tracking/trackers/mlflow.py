"""MLflow as a tracker: the default."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from experiments.run.failure import DATA_LOST
from experiments.run.journal import DataEvent, MetricsEvent
from experiments.tracking import mlflow_client, store_uri
from experiments.tracking.mlflow_client import Store
from experiments.tracking.model import log_model
from experiments.tracking.trackers.base import LoggedModel, RunInfo, StoredRun, Tracker
from experiments.trial.parameters import clean_key
from experiments.trial.trial import Trial

T = TypeVar("T")
STATUS = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
    "killed": "KILLED",
    # Only trials of a sweep have these states. A pruned trial is FINISHED: its curve can be compared, and the tag
    # `lathe.state` distinguishes it.
    "pending": "SCHEDULED",
    "pruned": "FINISHED",
    "cancelled": "KILLED",
}


class Mlflow(Tracker):
    """Copies a run to the store of `tracking.store`, under `tracking.experiment`. MLflow stores a repeated point once."""

    is_component = True
    _store: Store
    _run: StoredRun
    _folder: Path
    _name = ""

    def open(self, run: RunInfo, known_id: str, *, fresh: bool = False) -> StoredRun:
        """Find the run by its id or its key, restore it if it was deleted, or create it."""
        trial = run.trial
        self._store = store = mlflow_client.open_store(store_uri.resolve_trial_store(trial), trial.runs_dir)
        found = store.get_run(known_id) if known_id else None
        found = found or self._find_or_create(run)
        if fresh:
            self._set_aside(found, trial.provenance["run_key"])
            found = self._find_or_create(run)
        self._run, self._name, self._folder = found, found.tags.get("mlflow.runName", ""), trial.folder
        # The sweep reports what was repaired for its own trials.
        return found if run.is_trial else replace(found, warnings=tuple(store.take_warnings()))

    def _find_or_create(self, run: RunInfo) -> StoredRun:
        key = {"lathe.run_key": run.trial.provenance["run_key"]}
        experiment = run.trial.config["tracking"]["experiment"]
        return self._store.find_or_create_run(experiment, key, name=run.name, started=run.started, tags=run.tags)

    def _set_aside(self, run: StoredRun, run_key: str) -> None:
        """Mark the MLflow run of attempts whose files are lost, and take its key away, so that a new run gets it."""
        reason = (
            "files of this run were removed while it trained, so it was run again from the start as another MLflow run"
        )
        mark_lost(self._store, run.run_id, reason, time.time())
        self._store.rename(run.run_id, f"{run.tags.get('mlflow.runName', '')} ({DATA_LOST})")
        self._store.set_tags(run.run_id, {"lathe.run_key": f"{run_key}-lost-{run.run_id[:8]}"})

    def log_metrics(self, points: Sequence[MetricsEvent]) -> None:
        self._store.log_metrics(self._run.run_id, points)

    def log_params(self, params: Mapping[str, str]) -> None:
        self._store.log_params(self._run.run_id, {clean_key(key): text for key, text in params.items()})

    def log_data(self, events: Sequence[DataEvent]) -> None:
        self._store.log_data(self._run.run_id, events)

    def log_artifact(self, path: Path, name: str) -> None:
        self._store.upload(self._run.run_id, self._folder, name)

    def log_model(
        self, trial: Trial, trust: tuple[str, ...], register_as: str | None, *, however_large: bool
    ) -> LoggedModel:
        """Log the final model as an MLflow model, and register it under a name; what is done already is kept."""
        run = log_model.RunToLog(self._store, self._run.experiment_id, self._run.run_id, self._name)
        model_id = log_model.log(trial, run, trust, however_large=however_large)
        if register_as is None:
            return LoggedModel(model_id)
        return LoggedModel(model_id, register_as, log_model.register(trial, run, model_id, register_as))

    def set_tags(self, tags: Mapping[str, str], name: str | None = None) -> None:
        self._store.set_tags(self._run.run_id, tags)
        if name is not None:
            self._store.rename(self._run.run_id, name)
            self._name = name

    def set_status(self, state: str, ended: float | None) -> None:
        self._store.set_status(self._run.run_id, STATUS[state], ended)

    def guard(self, trial: Trial, work: Callable[[], T]) -> T:
        """Call ``work``; a damaged SQLite file is replaced, and then it is called again."""
        uri, name, written = store_uri.resolve_trial_store(trial), trial.folder.name, trial.config["tracking"]["store"]
        errors = mlflow_client.get_store_errors()
        try:
            return mlflow_client.retry_damaged(uri, trial.runs_dir, work)
        except errors as err:
            raise mlflow_client.make_store_error(err, name, written, uri, trial.reference) from err


def mark_lost(store: Store, run_id: str, reason: str, ended: float) -> None:
    """Mark a run whose files are lost as failed."""
    store.set_tags(run_id, {"lathe.state": "failed", "lathe.failure": DATA_LOST, "lathe.reason": reason})
    store.set_status(run_id, STATUS["failed"], ended)
