"""Uploads the journals of a run to MLflow, live or later. A repeated sync changes nothing."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experiments.core import atomic, renamed
from experiments.core.errors import InputError
from experiments.core.files.field_types import is_map, is_text, matches
from experiments.core.files.read_file import DamagedFileError, read_json_map
from experiments.core.lock import locked_within_limits
from experiments.run import journal
from experiments.run.failure import DATA_LOST
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
    # Only trials of a sweep have these states. A pruned trial is FINISHED: its curve can be compared, and the tag
    # `lathe.state` distinguishes it.
    "pending": "SCHEDULED",
    "pruned": "FINISHED",
    "cancelled": "KILLED",
}


@dataclass(frozen=True)
class SyncResult:
    """The result of one sync of a run; the ids are None before the first event of the run."""

    run_id: str | None
    experiment_id: str | None
    points: int
    model: LoggedModel | None = None
    """Its final model, if the store has it."""
    warning: str | None = None
    """Why the model could not be logged, or what was repaired in the store."""


@dataclass(frozen=True)
class LoggedModel:
    """The final model of a run in its store."""

    id: str
    name: str = ""
    """The registered name; "" if it is not registered."""
    version: str = ""

    @property
    def uri(self) -> str:
        """The URI by which MLflow loads the model."""
        return f"models:/{self.name}/{self.version}" if self.name else f"models:/{self.id}"


@dataclass(frozen=True)
class SweepMember:
    """What a sweep knows about the run of one of its trials."""

    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    state: RunState
    """From the ledger, which overrides the files of the trial."""
    since: float
    """Time of that state: the start of a run whose journal has no event yet."""
    measured: journal.MetricsEvent | None = None
    """The cost metrics of the ledger, once the trial has ended."""


@dataclass
class _RunProgress:
    """How much of a run is in the store; `sync.json` in the run folder."""

    store: str
    run_id: str = ""
    experiment_id: str = ""
    offsets: dict[str, int] = field(default_factory=dict)  # attempt -> bytes of its journal
    artifacts: list[str] = field(default_factory=list)  # paths still to upload
    last_state: dict[str, Any] | None = None
    last_time: float = 0.0
    name: str = ""
    tags: dict[str, str] = field(default_factory=dict)  # only those that change
    status: list[Any] | None = None  # MLflow's status, end time
    model: str = ""  # id of the final model, once it is logged
    versions: dict[str, str] = field(default_factory=dict)  # its versions by registered name

    @classmethod
    def load(cls, path: Path, name: str) -> _RunProgress:
        """Read the file; start over if it is missing, damaged or about another store."""
        try:
            progress = cls(**read_json_map(path))
            if not matches(vars(progress), {"store": is_text, "run_id": is_text, "offsets": is_map, "tags": is_map}):
                raise TypeError("a field has a value of the wrong type")
            if progress.last_state is not None:  # the first version stored its own names of states
                progress.last_state["state"] = renamed.state(progress.last_state["state"])
        except (DamagedFileError, TypeError, KeyError):
            return cls(store=name)
        return progress if progress.store == name else cls(store=name)

    def save(self, path: Path) -> None:
        atomic.write_text(path, json.dumps(asdict(self), indent=1) + "\n")


def sync_run(trial: Trial, trust: tuple[str, ...] = ()) -> SyncResult:
    """Upload the journals, parameters, artifacts and status of a run that are not in its store yet.

    Args:
        trial: the run.
        trust: packages whose code the logged model may include.

    Raises:
        StoreError: the store refused something; the next sync continues from there.
    """
    return RunSync(trial, trust).sync(reconcile=True)


class RunSync:
    """Syncs one run, once or repeatedly. Each sync holds the lock of the run, so that two processes take turns."""

    def __init__(self, trial: Trial, trust: tuple[str, ...] = ()) -> None:
        """
        Args:
            trial: the run.
            trust: packages whose code the logged model may include.
        """
        self.trial, self.trust = trial, trust
        self._attached = ""  # the run id that this process found in the store
        self._known_params: set[str] = set()

    def sync(self, *, reconcile: bool, member: SweepMember | None = None) -> SyncResult:
        """Upload what is new and set the status.

        Args:
            reconcile: whether to set a run to killed if its process is gone.
            member: for a trial of a sweep, whose parent run must exist.

        Raises:
            StoreError: the store refused something.
        """
        uri, _ = store_uri.resolve_trial_store(self.trial), self.trial.provenance
        name, written = self.trial.folder.name, self.trial.config["tracking"]["store"]
        errors = mlflow_client.get_store_errors()
        try:
            return mlflow_client.retry_damaged(uri, self.trial.runs_dir, lambda: self._sync(uri, reconcile, member))
        except errors as err:
            self._attached = ""
            raise mlflow_client.make_store_error(err, name, written, uri, name) from err

    def _sync(self, uri: str, reconcile: bool, member: SweepMember | None) -> SyncResult:
        store = mlflow_client.open_store(uri, self.trial.runs_dir)
        with locked_within_limits(self.trial.folder / "sync.lock"):
            progress = _RunProgress.load(self._path, self.trial.config["tracking"]["store"] or uri)
            attached = self._attached and self._attached == progress.run_id
            attached = attached and not self._has_lost_journals(progress.offsets)
            if not attached and not self._attach(store, progress, member):
                return SyncResult(None, None, 0)
            points = self._upload(store, progress)
            if member is not None and member.measured is not None:
                store.log_metrics(progress.run_id, [member.measured])
            self._set_status(store, progress, reconcile, member)
            self._upload_artifacts(store, progress)
            should_log = self._should_log_model(progress, member)
            model, warning = self._try_model(store, progress) if should_log else (None, None)
        if member is None:  # the sweep reports those of its own trials
            warning = "; ".join([*store.take_warnings(), *([warning] if warning else [])]) or None
        return SyncResult(progress.run_id, progress.experiment_id, points, model, warning)

    def log_model(self, register_as: str | None = None) -> LoggedModel:
        """Log and register the final model of a run that is in the store, unless that is done.

        Raises:
            InputError: the run has no model.
            StoreError: the store refused it.
        """
        uri, written = store_uri.resolve_trial_store(self.trial), self.trial.config["tracking"]["store"]
        errors = mlflow_client.get_store_errors()
        try:
            store = mlflow_client.open_store(uri, self.trial.runs_dir)
            with locked_within_limits(self.trial.folder / "sync.lock"):
                progress = _RunProgress.load(self._path, written or uri)
                return self._log_model(store, progress, register_as, however_large=True)
        except errors as err:
            name = self.trial.folder.name
            raise mlflow_client.make_store_error(err, name, written, uri, name) from err

    def count_pending(self) -> int:
        """Count the events that are not in the store yet."""
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

    def _attach(self, store: Store, progress: _RunProgress, member: SweepMember | None) -> bool:
        """Find or create the MLflow run and log its parameters; False before the first event."""
        started = _find_start(self.trial) or (member.since if member else None)
        if started is None:
            return False
        run = store.get_run(progress.run_id) if progress.run_id else None
        if run is None:
            run = self._find_or_create(store, started, member)
        if self._has_lost_journals(progress.offsets, run):
            self._set_lost_run_aside(store, run.run_id, run.tags.get("mlflow.runName", ""))
            run = self._find_or_create(store, started, member)
        if run.run_id != progress.run_id:
            self._start_over(progress, run)
        # A process that was killed may have set tags after it last saved what it had done.
        progress.tags |= run_tags.select_transient_tags(run.tags)
        self._known_params = set(run.params)
        self._log_params(store, run.run_id, flatten_config(self.trial.config) | dict(member.params if member else {}))
        progress.save(self._path)
        self._attached = run.run_id
        return True

    def _find_or_create(self, store: Store, started: float, member: SweepMember | None) -> StoredRun:
        config, key = self.trial.config, {"lathe.run_key": self.trial.provenance["run_key"]}
        tags = run_tags.make_run_tags(self.trial) | dict(member.tags if member else {})
        name = member.name if member else str(config["name"])
        return store.find_or_create_run(config["tracking"]["experiment"], key, name=name, started=started, tags=tags)

    def _has_lost_journals(self, offsets: Mapping[str, int], run: StoredRun | None = None) -> bool:
        """Whether journals that are in the store have lost lines, and later attempts have repeated their steps.

        The store would then have some points twice. Without a later attempt the store has more than the folder, and keeps it.

        Args:
            offsets: how many bytes of the journals are in the store, by attempt.
            run: that run in the store, if it was found without its progress file.
        """
        lost = [
            int(attempt) for attempt, size in offsets.items() if journal.find_loss(self.trial.folder, {attempt: size})
        ]
        attempts = [int(path.parent.name) for path in journal.journals(self.trial.folder)]
        if run is not None and run.has_points and not offsets:
            last = int(run.tags.get("lathe.attempt") or 0)
            lost += [last] if last and min(attempts, default=0) > last else []
        return bool(lost) and max(attempts, default=0) > max(lost)

    def _set_lost_run_aside(self, store: Store, run_id: str, name: str) -> None:
        """Mark the MLflow run of attempts whose files are lost, and take its key away, so that a new run gets it."""
        reason = (
            "files of this run were removed while it trained, so it was run again from the start as another MLflow run"
        )
        mark_lost(store, run_id, reason, time.time())
        store.rename(run_id, f"{name} ({DATA_LOST})")
        store.set_tags(run_id, {"lathe.run_key": f"{self.trial.provenance['run_key']}-lost-{run_id[:8]}"})

    def mark_gone(self, run_id: str) -> None:
        """Mark the MLflow run as failed because the folder of the run is gone."""
        uri, errors = store_uri.resolve_trial_store(self.trial), mlflow_client.get_store_errors()
        with contextlib.suppress(*errors):
            reason = f"its folder is gone: {self.trial.folder} was removed or renamed while it trained"
            mark_lost(mlflow_client.open_store(uri, self.trial.runs_dir), run_id, reason, time.time())

    def _start_over(self, progress: _RunProgress, run: StoredRun) -> None:
        code = sorted(path for path in (self.trial.folder / "code").glob("*") if path.is_file())
        progress.run_id, progress.experiment_id = run.run_id, run.experiment_id
        progress.offsets, progress.last_state, progress.last_time = {}, None, 0.0
        progress.name, progress.tags, progress.status = (
            run.tags.get("mlflow.runName", ""),
            run_tags.select_transient_tags(run.tags),
            None,
        )
        progress.model, progress.versions = "", {}
        progress.artifacts = ["trial.yaml", "provenance.yaml", *(f"code/{path.name}" for path in code)]

    def _upload(self, store: Store, progress: _RunProgress) -> int:
        """Send the events beyond the offsets; after a crash between two saves they are sent again."""
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
                points += self._send(store, progress, new)
                progress.offsets[attempt] = end
                progress.save(self._path)
        return points

    def _send(self, store: Store, progress: _RunProgress, events: Sequence[journal.Event]) -> int:
        points = store.log_metrics(progress.run_id, (event for event in events if event["event"] == "metrics"))
        store.log_data(progress.run_id, [event for event in events if event["event"] == "data"])
        for event in events:
            progress.last_time = max(progress.last_time, event["time"])
            if event["event"] == "params":
                texts = {clean_key(key): format_param(value) for key, value in event["params"].items()}
                self._log_params(store, progress.run_id, texts)
            elif event["event"] == "state":
                progress.last_state = dict(event)
            elif event["event"] == "artifact" and event["path"] not in progress.artifacts:
                progress.artifacts.append(event["path"])
        return points

    def _log_params(self, store: Store, run_id: str, texts: Mapping[str, str]) -> None:
        """Log new parameters; the value that was logged first stays."""
        store.log_params(run_id, {key: text for key, text in texts.items() if key not in self._known_params})
        self._known_params.update(texts)

    def _set_status(self, store: Store, progress: _RunProgress, reconcile: bool, member: SweepMember | None) -> None:
        last = progress.last_state
        if member is not None:
            now = member.state
        else:
            alive = not reconcile or last is None or is_process_alive(last["host"], last["pid"], last["time"])
            now = determine_state(self.trial.outcome(), last, progress.last_time, alive)
        tags = {"lathe.state": now.state, "lathe.attempt": str(now.attempt)}
        tags |= {"lathe.reason": now.reason} if now.reason else {}
        tags |= {"lathe.failure": now.failure} if now.failure else {}
        tags |= {"lathe.host": last["host"]} if last is not None else {}
        tags |= run_tags.make_reproduction_tags(self.trial)
        tags |= dict(member.tags if member else {})
        status = [MLFLOW_STATUS[now.state], now.ended]
        name = member.name if member else progress.name
        if (tags, status, name) == (progress.tags, progress.status, progress.name):
            return
        store.set_tags(progress.run_id, run_tags.diff_tags(progress.tags, tags))
        if name != progress.name:
            store.rename(progress.run_id, name)
        if status != progress.status:
            store.set_status(progress.run_id, MLFLOW_STATUS[now.state], now.ended)
        progress.tags, progress.status, progress.name = tags, status, name
        progress.save(self._path)

    def _should_log_model(self, progress: _RunProgress, member: SweepMember | None) -> bool:
        """Whether to log the model with this run; for the trials of a sweep the sweep selects one."""
        is_finished = progress.status is not None and progress.status[0] == "FINISHED"
        return bool(member is None and is_finished and self.trial.config["tracking"].get("log_model"))

    def _try_model(self, store: Store, progress: _RunProgress) -> tuple[LoggedModel | None, str | None]:
        """Log the model, or return the reason why that failed; the run is in the store in any case."""
        try:
            return self._log_model(store, progress, self.trial.config["tracking"].get("register_as")), None
        except InputError as err:
            reason = "; ".join(err.problems)
        except mlflow_client.get_store_errors() as err:
            reason = f"{mask_password(mlflow_client.get_first_line(err))}; `lathe sync {self.trial.reference}` retries"
        return None, f"the model of run '{self.trial.folder.name}' was not logged: {reason}"

    def _log_model(
        self, store: Store, progress: _RunProgress, register_as: str | None, *, however_large: bool = False
    ) -> LoggedModel:
        run = log_model.RunToLog(store, progress.experiment_id, progress.run_id, progress.name)
        if not progress.model:
            progress.model = log_model.log(self.trial, run, self.trust, however_large=however_large)
            progress.save(self._path)
        if register_as is None:
            return LoggedModel(progress.model)
        if register_as not in progress.versions:
            progress.versions[register_as] = log_model.register(self.trial, run, progress.model, register_as)
            progress.save(self._path)
        return LoggedModel(progress.model, register_as, progress.versions[register_as])

    def _upload_artifacts(self, store: Store, progress: _RunProgress) -> None:
        """Upload the listed files, last: a store that refuses files still gets the curves."""
        while progress.artifacts:
            store.upload(progress.run_id, self.trial.folder, progress.artifacts[0])
            del progress.artifacts[0]
            progress.save(self._path)


def mark_lost(store: Store, run_id: str, reason: str, ended: float) -> None:
    """Mark a run whose files are lost as failed."""
    store.set_tags(run_id, {"lathe.state": "failed", "lathe.failure": DATA_LOST, "lathe.reason": reason})
    store.set_status(run_id, MLFLOW_STATUS["failed"], ended)


def _find_start(trial: Trial) -> float | None:
    """Return the time of the first event, or of the end for a run that died before it."""
    for path in journal.journals(trial.folder):
        events, _ = journal.read(path, max_bytes=1)
        if events:
            return events[0]["time"]
    outcome = trial.outcome()
    return float(outcome["ended"]) if outcome else None
