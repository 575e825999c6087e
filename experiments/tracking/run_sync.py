"""Brings the journals of a run into MLflow, live or later. A replay changes nothing twice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experiments.core import atomic
from experiments.core.errors import InputError
from experiments.core.lock import locked
from experiments.run import journal
from experiments.run.state import RunState, determine_state, is_process_alive
from experiments.tracking import mlflow_client, run_tags, store_uri
from experiments.tracking.mlflow_client import Store, StoredRun
from experiments.tracking.model import log_model
from experiments.trial.parameters import clean_key, flatten_config, format_param, mask_password
from experiments.trial.trial import Trial

_BLOCK_BYTES = 1 << 20
MLFLOW_STATUS = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
    "killed": "KILLED",
    # What only a sweep's ledger says. Who filters for FINISHED wants what can be compared, a pruned trial's curve too;
    # `lathe.state` tells them apart.
    "pending": "SCHEDULED",
    "pruned": "FINISHED",
    "cancelled": "KILLED",
}


@dataclass(frozen=True)
class SyncResult:
    """What one sync of a run did; the ids are None where nothing has happened yet that MLflow could show."""

    run_id: str | None
    experiment_id: str | None
    points: int
    model: LoggedModel | None = None
    """Its final model, where that is in the store."""
    warning: str | None = None
    """Why it is not, where it should be."""


@dataclass(frozen=True)
class LoggedModel:
    """The final model of a run in its store."""

    id: str
    name: str = ""
    """Under which it is registered; "" where it is not."""
    version: str = ""

    @property
    def uri(self) -> str:
        """What MLflow loads it by."""
        return f"models:/{self.name}/{self.version}" if self.name else f"models:/{self.id}"


@dataclass(frozen=True)
class SweepMember:
    """What a sweep says of the run of one of its trials."""

    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    state: RunState
    """By the ledger, whatever the trial's files say."""
    since: float
    """When it came to that: the start of a run whose journal has no event yet."""
    measured: journal.MetricsEvent | None = None
    """What the ledger knows of its cost, once it has ended."""


@dataclass
class _RunProgress:
    """How far a run has come into a store; `sync.json` in the run folder."""

    store: str
    run_id: str = ""
    experiment_id: str = ""
    offsets: dict[str, int] = field(default_factory=dict)  # attempt -> bytes of its journal
    artifacts: list[str] = field(default_factory=list)  # paths still to upload
    last_state: dict[str, Any] | None = None
    last_time: float = 0.0
    name: str = ""
    tags: dict[str, str] = field(default_factory=dict)  # of those that change
    status: list[Any] | None = None  # word of MLflow's, time of the end
    model: str = ""  # id of the final model, once it is logged
    versions: dict[str, str] = field(default_factory=dict)  # of it, by the name it is registered under

    @classmethod
    def load(cls, path: Path, name: str) -> _RunProgress:
        """Read what stands in the file; start over where it is missing, damaged or about another store."""
        try:
            progress = cls(**json.loads(path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return cls(store=name)
        return progress if progress.store == name else cls(store=name)

    def save(self, path: Path) -> None:
        atomic.write_text(path, json.dumps(asdict(self), indent=1) + "\n")


def sync_run(trial: Trial) -> SyncResult:
    """Bring a run's journals, parameters, artifacts and status into its store, as far as they are not there yet.

    Raises:
        StoreError: the store did not take it; what it took stays, and the next sync goes on from there.
    """
    return RunSync(trial).round(reconcile=True)


class RunSync:
    """Syncs one run, once or again and again; every round holds the run's lock, so that two syncs take turns."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self._attached = ""  # the run id that this process has seen in the store
        self._known_params: set[str] = set()

    def round(self, *, reconcile: bool, place: SweepMember | None = None) -> SyncResult:
        """Upload what is new and set the status.

        Args:
            reconcile: whether to call a run killed whose process is gone.
            place: of a trial of a sweep, whose parent run is there already.

        Raises:
            StoreError: the store did not take it.
        """
        uri, _ = store_uri.resolve_trial_store(self.trial), self.trial.provenance
        errors = mlflow_client.get_store_errors()
        try:
            into = mlflow_client.open_store(uri, self.trial.runs_dir)
            with locked(self.trial.folder / "sync.lock"):
                progress = _RunProgress.load(self._path, self.trial.config["tracking"]["store"] or uri)
                attached = self._attached and self._attached == progress.run_id
                if not attached and not self._attach(into, progress, place):
                    return SyncResult(None, None, 0)
                points = self._upload(into, progress)
                if place is not None and place.measured is not None:
                    into.log_metrics(progress.run_id, [place.measured])
                self._set_standing(into, progress, reconcile, place)
                self._upload_artifacts(into, progress)
                asked = self._asks_for_model(progress, place)
                model, warning = self._try_model(into, progress) if asked else (None, None)
        except errors as err:
            self._attached = ""
            name, written = self.trial.folder.name, self.trial.config["tracking"]["store"]
            raise mlflow_client.make_store_error(err, name, written, uri, name) from err
        return SyncResult(progress.run_id, progress.experiment_id, points, model, warning)

    def log_model(self, register_as: str | None = None) -> LoggedModel:
        """Log the final model of a run that is in the store, and register it, as far as that is not done.

        Raises:
            InputError: the run has no model.
            StoreError: the store did not take it.
        """
        uri, written = store_uri.resolve_trial_store(self.trial), self.trial.config["tracking"]["store"]
        errors = mlflow_client.get_store_errors()
        try:
            into = mlflow_client.open_store(uri, self.trial.runs_dir)
            with locked(self.trial.folder / "sync.lock"):
                progress = _RunProgress.load(self._path, written or uri)
                return self._bring_model(into, progress, register_as, however_large=True)
        except errors as err:
            name = self.trial.folder.name
            raise mlflow_client.make_store_error(err, name, written, uri, name) from err

    def pending(self) -> int:
        """Events that the store has not got yet."""
        name = self.trial.config["tracking"]["store"] or store_uri.resolve_trial_store(self.trial)
        offsets = _RunProgress.load(self._path, name).offsets
        lines = 0
        for path in journal.journals(self.trial.folder):
            with path.open("rb") as file:
                file.seek(offsets.get(path.parent.name, 0))
                lines += sum(line.endswith(b"\n") for line in file)
        return lines

    @property
    def _path(self) -> Path:
        return self.trial.folder / "sync.json"

    def _attach(self, into: Store, progress: _RunProgress, place: SweepMember | None) -> bool:
        """Find or create the MLflow run and give it its parameters; False while there is nothing to show."""
        started = _find_start(self.trial) or (place.since if place else None)
        if started is None:
            return False
        run = into.run(progress.run_id) if progress.run_id else None
        if run is None:
            run = self._find_or_create(into, started, place)
        if run.run_id != progress.run_id:
            self._start_over(progress, run)
        self._known_params = set(run.params)
        self._log_params(into, run.run_id, flatten_config(self.trial.config) | dict(place.params if place else {}))
        progress.save(self._path)
        self._attached = run.run_id
        return True

    def _find_or_create(self, into: Store, started: float, place: SweepMember | None) -> StoredRun:
        config, key = self.trial.config, {"lathe.run_key": self.trial.provenance["run_key"]}
        tags = run_tags.make_run_tags(self.trial) | dict(place.tags if place else {})
        name = place.name if place else str(config["name"])
        return into.run_of(config["tracking"]["experiment"], key, name=name, started=started, tags=tags)

    def _start_over(self, progress: _RunProgress, run: StoredRun) -> None:
        code = sorted(path for path in (self.trial.folder / "code").glob("*") if path.is_file())
        progress.run_id, progress.experiment_id = run.run_id, run.experiment_id
        progress.offsets, progress.last_state, progress.last_time = {}, None, 0.0
        progress.name, progress.tags, progress.status = (
            run.tags.get("mlflow.runName", ""),
            select_transient_tags(run.tags),
            None,
        )
        progress.model, progress.versions = "", {}
        progress.artifacts = ["trial.yaml", "provenance.yaml", *(f"code/{path.name}" for path in code)]

    def _upload(self, into: Store, progress: _RunProgress) -> int:
        """Send what the journals hold beyond the offsets; a crash between two saves only sends it again."""
        paths = journal.journals(self.trial.folder)
        points = 0
        for number, path in enumerate(paths):
            attempt = path.parent.name
            while True:
                offset = progress.offsets.get(attempt, 0)
                events, end = journal.read(path, offset, _BLOCK_BYTES)
                if end == offset:
                    break
                new = list(journal.first_writes(events, journal.highest_steps(paths[:number])))
                points += self._send(into, progress, new)
                progress.offsets[attempt] = end
                progress.save(self._path)
        return points

    def _send(self, into: Store, progress: _RunProgress, events: Sequence[journal.Event]) -> int:
        points = into.log_metrics(progress.run_id, (event for event in events if event["event"] == "metrics"))
        into.log_data(progress.run_id, [event for event in events if event["event"] == "data"])
        for event in events:
            progress.last_time = max(progress.last_time, event["time"])
            if event["event"] == "params":
                texts = {clean_key(key): format_param(value) for key, value in event["params"].items()}
                self._log_params(into, progress.run_id, texts)
            elif event["event"] == "state":
                progress.last_state = dict(event)
            elif event["event"] == "artifact" and event["path"] not in progress.artifacts:
                progress.artifacts.append(event["path"])
        return points

    def _log_params(self, into: Store, run_id: str, texts: Mapping[str, str]) -> None:
        """Log what is not there yet: what was written first stands."""
        into.log_params(run_id, {key: text for key, text in texts.items() if key not in self._known_params})
        self._known_params.update(texts)

    def _set_standing(self, into: Store, progress: _RunProgress, reconcile: bool, place: SweepMember | None) -> None:
        last = progress.last_state
        if place is not None:
            now = place.state
        else:
            alive = not reconcile or last is None or is_process_alive(last["host"], last["pid"], last["time"])
            now = determine_state(self.trial.outcome(), last, progress.last_time, alive)
        tags = {"lathe.state": now.state, "lathe.attempt": str(now.attempt)}
        tags |= {"lathe.reason": now.reason} if now.reason else {}
        tags |= {"lathe.failure": now.failure} if now.failure else {}
        tags |= {"lathe.host": last["host"]} if last is not None else {}
        tags |= run_tags.make_reproduction_tags(self.trial)
        tags |= dict(place.tags if place else {})
        status = [MLFLOW_STATUS[now.state], now.ended]
        name = place.name if place else progress.name
        if (tags, status, name) == (progress.tags, progress.status, progress.name):
            return
        into.set_tags(progress.run_id, diff_tags(progress.tags, tags))
        if name != progress.name:
            into.rename(progress.run_id, name)
        if status != progress.status:
            into.set_status(progress.run_id, MLFLOW_STATUS[now.state], now.ended)
        progress.tags, progress.status, progress.name = tags, status, name
        progress.save(self._path)

    def _asks_for_model(self, progress: _RunProgress, place: SweepMember | None) -> bool:
        """Whether the model of this run is to be logged with it; of a sweep's trials the sweep picks one."""
        is_finished = progress.status is not None and progress.status[0] == "FINISHED"
        return bool(place is None and is_finished and self.trial.config["tracking"].get("log_model"))

    def _try_model(self, into: Store, progress: _RunProgress) -> tuple[LoggedModel | None, str | None]:
        """Log the model, or say why that cannot be: the run is in the store all the same."""
        try:
            return self._bring_model(into, progress, self.trial.config["tracking"].get("register_as")), None
        except InputError as err:
            reason = "; ".join(err.problems)
        except mlflow_client.get_store_errors() as err:
            reason = (
                f"{mask_password(mlflow_client.get_first_line(err))}; `lathe sync {self.trial.reference}` tries again"
            )
        return None, f"the model of run '{self.trial.folder.name}' was not logged: {reason}"

    def _bring_model(
        self, into: Store, progress: _RunProgress, register_as: str | None, *, however_large: bool = False
    ) -> LoggedModel:
        run = log_model.RunToLog(into, progress.experiment_id, progress.run_id, progress.name)
        if not progress.model:
            progress.model = log_model.log(self.trial, run, however_large=however_large)
            progress.save(self._path)
        if register_as is None:
            return LoggedModel(progress.model)
        if register_as not in progress.versions:
            progress.versions[register_as] = log_model.register(self.trial, run, progress.model, register_as)
            progress.save(self._path)
        return LoggedModel(progress.model, register_as, progress.versions[register_as])

    def _upload_artifacts(self, into: Store, progress: _RunProgress) -> None:
        """Upload the files on the list, last of all: a store that takes no files shall still have the curves."""
        while progress.artifacts:
            into.upload(progress.run_id, self.trial.folder, progress.artifacts[0])
            del progress.artifacts[0]
            progress.save(self._path)


def select_transient_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Of the tags of a run that is found again, those that may hold no longer."""
    return {key: text for key, text in tags.items() if key in ("lathe.reason", "lathe.failure", "lathe.host")}


def diff_tags(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Tags to set where others stood before; one that holds no longer is emptied."""
    new = {key: value for key, value in now.items() if before.get(key) != value}
    return new | {key: "" for key in before if key not in now and before[key]}


def _find_start(trial: Trial) -> float | None:
    """Time of the first event; of the end for a run that died before it."""
    for path in journal.journals(trial.folder):
        events, _ = journal.read(path, max_bytes=1)
        if events:
            return events[0]["time"]
    outcome = trial.outcome()
    return float(outcome["ended"]) if outcome else None
