"""Brings journals into MLflow, live or later; the only file that writes to MLflow. A replay changes nothing twice."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import atomic, describe, journal, store
from experiments.standing import Standing, process_alive, standing
from experiments.store import StoreError
from experiments.trial import Trial

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

METRICS_PER_CALL, _PARAMS_PER_CALL = 1000, 100  # MLflow refuses more
_MAX_DIGEST = 36
_BLOCK_BYTES = 1 << 20
_STATUS = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "failed": "FAILED",
    "stopped": "KILLED",
    "killed": "KILLED",
    # What only a sweep's ledger says:
    "waiting": "SCHEDULED",
    "pruned": "FINISHED",
    "cancelled": "KILLED",
}


@dataclass(frozen=True)
class Synced:
    """What one sync of a run did; the ids are None where nothing has happened yet that MLflow could show."""

    run_id: str | None
    experiment_id: str | None
    points: int


@dataclass
class _Progress:
    """How far a run has come into a store; `sync.json` in the run folder."""

    store: str
    run_id: str = ""
    experiment_id: str = ""
    offsets: dict[str, int] = field(default_factory=dict)  # attempt -> bytes of its journal
    artifacts: list[str] = field(default_factory=list)  # paths still to upload
    last_state: dict[str, Any] | None = None
    last_time: float = 0.0
    standing: dict[str, Any] | None = None

    @classmethod
    def load(cls, path: Path, name: str) -> _Progress:
        """Read what stands in the file; start over where it is missing, damaged or about another store."""
        try:
            progress = cls(**json.loads(path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return cls(store=name)
        return progress if progress.store == name else cls(store=name)

    def save(self, path: Path) -> None:
        atomic.write_text(path, json.dumps(asdict(self), indent=1) + "\n")


def sync_run(trial: Trial) -> Synced:
    """Bring a run's journals, parameters, artifacts and status into its store, as far as they are not there yet.

    Raises:
        StoreError: the store did not take it; what it took stays, and the next sync goes on from there.
    """
    return RunSync(trial).round(reconcile=True)


class RunSync:
    """Syncs one run, once or again and again; every round holds the run's lock, so that two syncs take turns."""

    def __init__(self, trial: Trial, known: Standing | None = None) -> None:
        """
        Args:
            trial: whose run.
            known: where it stands, of a trial whose sweep keeps a ledger; None: its own files tell.
        """
        self.trial, self.known = trial, known
        self._attached = ""  # the run id that this process has seen in the store
        self._known_params: set[str] = set()

    def round(self, *, reconcile: bool) -> Synced:
        """Upload what is new and set the status; `reconcile` calls a run killed whose process is gone."""
        uri, _ = store.store_uri(self.trial), self.trial.provenance
        errors = mlflow_errors()
        try:
            client = connect(uri, self.trial.runs_dir)
            with locked(self.trial.folder / "sync.lock"):
                progress = _Progress.load(self._path, self.trial.config["tracking"]["store"] or uri)
                attached = self._attached and self._attached == progress.run_id
                if not attached and not self._attach(client, uri, progress):
                    return Synced(None, None, 0)
                points = self._upload(client, progress)
                self._set_standing(client, progress, reconcile)
                self._upload_artifacts(client, progress)
        except errors as err:
            self._attached = ""
            raise self._told(err, uri) from err
        return Synced(progress.run_id, progress.experiment_id, points)

    def pending(self) -> int:
        """Events that the store has not got yet."""
        name = self.trial.config["tracking"]["store"] or store.store_uri(self.trial)
        offsets = _Progress.load(self._path, name).offsets
        lines = 0
        for path in journal.journals(self.trial.folder):
            with path.open("rb") as file:
                file.seek(offsets.get(path.parent.name, 0))
                lines += sum(line.endswith(b"\n") for line in file)
        return lines

    @property
    def _path(self) -> Path:
        return self.trial.folder / "sync.json"

    def _told(self, err: Exception, uri: str) -> StoreError:
        """One line that names the store as the user wrote it, without the password that its URI may hold."""
        written = self.trial.config["tracking"]["store"]
        reason = next(iter(str(err).strip().splitlines()), type(err).__name__).replace(uri, written or uri)
        name = self.trial.folder.name
        return StoreError(
            f"tracking.store={describe.without_password(written or uri)} did not take {name!r}: "
            f"{describe.without_password(reason)[:300]}; its journals hold everything, `lathe sync {name}` tries again"
        )

    def _attach(self, client: MlflowClient, uri: str, progress: _Progress) -> bool:
        """Find or create the MLflow run and give it its parameters; False while there is nothing to show."""
        started = _started(self.trial)
        if started is None:
            return False
        run = _get_run(client, progress.run_id) if progress.run_id else None
        if run is None:
            run = self._find_or_create(client, uri, started)
        if run.info.lifecycle_stage == "deleted":
            client.restore_run(run.info.run_id)
        if run.info.run_id != progress.run_id:
            self._start_over(progress, run)
        self._known_params = set(run.data.params)
        self._log_params(client, run.info.run_id, describe.parameters(self.trial.config))
        progress.save(self._path)
        self._attached = run.info.run_id
        return True

    def _find_or_create(self, client: MlflowClient, uri: str, started: float) -> Run:
        from mlflow.entities import ViewType

        config, key = self.trial.config, self.trial.provenance["run_key"]
        experiment_id = experiment_id_of(client, uri, self.trial.runs_dir, config["tracking"]["experiment"])
        by_key = f"tags.`lathe.run_key` = '{key}'"
        found = client.search_runs([experiment_id], by_key, run_view_type=ViewType.ALL, max_results=1)
        if found:
            return found[0]
        tags = describe.tags(self.trial)
        name = str(self.trial.provenance.get("label") or config["name"])
        return client.create_run(experiment_id, start_time=ms(started), tags=tags, run_name=name)

    def _start_over(self, progress: _Progress, run: Run) -> None:
        code = sorted(path for path in (self.trial.folder / "code").glob("*") if path.is_file())
        progress.run_id, progress.experiment_id = run.info.run_id, run.info.experiment_id
        progress.offsets, progress.standing, progress.last_state, progress.last_time = {}, None, None, 0.0
        progress.artifacts = ["trial.yaml", "provenance.yaml", *(f"code/{path.name}" for path in code)]

    def _upload(self, client: MlflowClient, progress: _Progress) -> int:
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
                points += self._send(client, progress, new)
                progress.offsets[attempt] = end
                progress.save(self._path)
        return points

    def _send(self, client: MlflowClient, progress: _Progress, events: Sequence[journal.Event]) -> int:
        points = _log_metrics(client, progress.run_id, (event for event in events if event["event"] == "metrics"))
        _log_data(client, progress.run_id, [event for event in events if event["event"] == "data"])
        for event in events:
            progress.last_time = max(progress.last_time, event["time"])
            if event["event"] == "params":
                texts = {describe.clean_key(key): describe.param_text(value) for key, value in event["params"].items()}
                self._log_params(client, progress.run_id, texts)
            elif event["event"] == "state":
                progress.last_state = dict(event)
            elif event["event"] == "artifact" and event["path"] not in progress.artifacts:
                progress.artifacts.append(event["path"])
        return points

    def _log_params(self, client: MlflowClient, run_id: str, texts: Mapping[str, str]) -> None:
        """Log what is not there yet: MLflow refuses to change a parameter, so what was written first stands."""
        from mlflow.entities import Param

        params = [Param(key, text) for key, text in texts.items() if key not in self._known_params]
        for start in range(0, len(params), _PARAMS_PER_CALL):
            client.log_batch(run_id, params=params[start : start + _PARAMS_PER_CALL])
        self._known_params.update(texts)

    def _set_standing(self, client: MlflowClient, progress: _Progress, reconcile: bool) -> None:
        from mlflow.entities import RunTag

        last = progress.last_state
        alive = not reconcile or last is None or process_alive(last["host"], last["pid"], last["time"])
        now = self.known or standing(self.trial.outcome(), last, progress.last_time, alive)
        if asdict(now) == progress.standing:
            return
        tags = {"lathe.state": now.state, "lathe.attempt": str(now.attempt)}
        if now.failure:
            tags["lathe.failure"] = now.failure
        if now.reason or (progress.standing or {}).get("reason"):
            tags["lathe.reason"] = now.reason or ""
        if last is not None:
            tags["lathe.host"] = last["host"]
        client.log_batch(progress.run_id, tags=[RunTag(key, value[: describe.MAX_TAG]) for key, value in tags.items()])
        if now.ended is None:
            client.update_run(progress.run_id, status=_STATUS[now.state])
        else:
            client.set_terminated(progress.run_id, _STATUS[now.state], ms(now.ended))
        progress.standing = asdict(now)
        progress.save(self._path)

    def _upload_artifacts(self, client: MlflowClient, progress: _Progress) -> None:
        """Upload the files on the list, last of all: a store that takes no files shall still have the curves."""
        root = self.trial.folder.resolve()
        while progress.artifacts:
            path = (root / progress.artifacts[0]).resolve()
            if path.is_relative_to(root) and path.exists():  # no file from elsewhere, none that was cleaned away
                log = client.log_artifacts if path.is_dir() else client.log_artifact
                into = (path if path.is_dir() else path.parent).relative_to(root)
                log(progress.run_id, str(path), None if into == Path() else str(into))
            del progress.artifacts[0]
            progress.save(self._path)


# What follows talks to MLflow and knows nothing of run folders.


def mlflow_errors() -> tuple[type[Exception], ...]:
    """Import MLflow, quiet and impatient, and say what its stores raise."""
    defaults = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # its default blocks for 246 s on a dead server (2026-11-23)
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, OSError, ImportError


@lru_cache(maxsize=8)
def connect(uri: str, runs_dir: Path) -> MlflowClient:
    """Open the store; one process at a time, as 7 of 8 that make its schema at once crash (MLflow 3.17, 2026-11-23)."""
    from mlflow import MlflowClient

    if store.is_server(uri):
        return MlflowClient(tracking_uri=uri)
    database = store.sqlite_path(uri)
    lock = database.with_name(f".{database.name}.lock") if database else runs_dir / ".store.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock):
        return MlflowClient(tracking_uri=uri)  # making the client makes the schema


def experiment_id_of(client: MlflowClient, uri: str, runs_dir: Path, name: str) -> str:
    """Find or create the experiment; `mlflow.set_experiment` would put the loser of a race into experiment 0."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = None if store.is_server(uri) else store.artifacts_folder(uri, runs_dir).as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as err:
            if err.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)
            assert experiment is not None, name
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


def _get_run(client: MlflowClient, run_id: str) -> Run | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as err:
        if err.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _log_metrics(client: MlflowClient, run_id: str, events: Iterable[journal.MetricsEvent]) -> int:
    """Send points with the time at which they were logged: MLflow takes the same point twice for one."""
    from mlflow.entities import Metric

    points = [
        Metric(describe.clean_key(key), value, ms(event["time"]), event["step"])
        for event in events
        for key, value in event["metrics"].items()
    ]
    for start in range(0, len(points), METRICS_PER_CALL):
        client.log_batch(run_id, metrics=points[start : start + METRICS_PER_CALL])
    return len(points)


def _log_data(client: MlflowClient, run_id: str, events: Sequence[journal.DataEvent]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Dataset(
                name=f"{event['name']}/{event['split']}",  # MLflow keeps one of a name and digest
                digest=event["digest"][:_MAX_DIGEST],
                source_type="local",
                source=json.dumps({"uri": event["name"]}),
                profile=json.dumps({"num_examples": event["num_examples"]}),
            ),
            [InputTag("mlflow.data.context", event["split"])],
        )
        for event in events
    ]
    if inputs:
        client.log_inputs(run_id, inputs)


def _started(trial: Trial) -> float | None:
    """Time of the first event; of the end for a run that died before it."""
    for path in journal.journals(trial.folder):
        events, _ = journal.read(path, max_bytes=1)
        if events:
            return events[0]["time"]
    outcome = trial.outcome()
    return float(outcome["ended"]) if outcome else None


def ms(seconds: float) -> int:
    return round(seconds * 1000)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
