"""Writes runs to an MLflow store. Does not know run folders."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from experiments.core.lock import locked_within_limits
from experiments.core.runs_dir import make_ignored
from experiments.run import journal
from experiments.tracking import sqlite_store, store_uri
from experiments.tracking.trackers.base import StoredRun
from experiments.tracking.trackers.mlflow_metric import make_metric_name
from experiments.trial.parameters import MAX_TAG, mask_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")
METRICS_PER_CALL, PARAMS_PER_CALL = 1000, 100  # limits of MLflow; the second one holds for tags too
MAX_DIGEST = 36
REFUSALS = ("INVALID_PARAMETER_VALUE", "PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "BAD_REQUEST")
"""MLflow's codes of errors that the same request would raise again."""
DROPPED_VARIABLES = ("MLFLOW_ACTIVE_MODEL_ID", "_MLFLOW_ACTIVE_MODEL_ID", "MLFLOW_ENABLE_ASYNC_LOGGING")
"""Of the user's own use of MLflow: they would attach our points to another model, or hide that a point was refused."""
SCHEMA_SIGNS = ("out-of-date database schema", "Can't locate revision")


def get_store_errors() -> tuple[type[Exception], ...]:
    """Import MLflow with short timeouts and no output; return the exceptions that its stores raise."""
    defaults = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # its default blocks for 246 s on a dead server (2026-11-23)
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    for name in DROPPED_VARIABLES:
        os.environ.pop(name, None)
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError


def make_store_error(err: Exception, name: str, written: str | None, uri: str, reference: str) -> store_uri.StoreError:
    """Make an error in one line that names the store as written, without the password that its URI may hold.

    Args:
        err: one of `get_store_errors`.
        name: of the run or the sweep.
        written: `tracking.store`.
        uri: of the store.
        reference: the argument of `lathe sync` that retries.
    """
    reason = _reason(err, uri).replace(uri, written or uri)
    return store_uri.StoreError(
        f"tracking.store={mask_password(written or uri)} did not take {name!r}: "
        f"{mask_password(reason)[:300]}; its journals hold everything, `lathe sync {reference}` retries",
        is_permanent=_is_permanent(err),
    )


def _is_permanent(err: Exception) -> bool:
    """Whether a retry cannot help: the store refused the login, a value or a name, or its driver is missing."""
    if isinstance(err, (ImportError, PermissionError)) or "No module named" in str(err):
        return True
    message = get_first_line(err)
    signs = ("error code 401", "error code 403", *SCHEMA_SIGNS)
    return getattr(err, "error_code", None) in REFUSALS or any(sign in message for sign in signs)


def get_first_line(err: Exception) -> str:
    """Return the first line of an error message."""
    return next(iter(str(err).strip().splitlines()), type(err).__name__)


def _reason(err: Exception, uri: str) -> str:
    """Describe an error in one line, with a fix if the message of the store has none."""
    message = get_first_line(err)
    if "error code 401" in message:
        return "it requires a login; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if "error code 403" in message:
        return "this user has no permission (403); ask the administrator of the server for permission to edit the experiment"
    if any(sign in str(err) for sign in SCHEMA_SIGNS):
        return (
            f"its tables are of another version of MLflow ({message}); `mlflow db upgrade` brings older ones up to date, "
            "or move the store away and a new one is made"
        )
    if isinstance(err, ImportError) or "No module named" in message:
        fix = "`pip install 'psycopg[binary]'`" if uri.startswith("postgresql") else "install it"
        return f"Python has no driver for its database ({message}); {fix} where runs are synced"
    return message


_open_stores: dict[tuple[str, Path], Store] = {}


def open_store(uri: str, runs_dir: Path) -> Store:
    """Open the store of a URI, once per process, and again if another process has replaced its file."""
    known = _open_stores.get((uri, runs_dir))
    if known is None or known.was_replaced():
        known = _open_stores[uri, runs_dir] = Store(uri, runs_dir)
    return known


def retry_damaged(uri: str, runs_dir: Path, work: Callable[[], T]) -> T:
    """Do work on a store; if its file turns out to be damaged, replace the file and do the work again."""
    try:
        return work()
    except get_store_errors() as err:
        if store_uri.get_sqlite_path(uri) is None or not sqlite_store.is_damage(err):
            raise
        _open_stores[uri, runs_dir] = Store(uri, runs_dir, check_pages=True)
        return work()


class Store:
    """One of MLflow's stores."""

    def __init__(self, uri: str, runs_dir: Path, *, check_pages: bool = False) -> None:
        """Open the store under a lock: 7 of 8 processes that create the schema at once crash (MLflow 3.17, 2026-11-23).

        Args:
            uri: of the store.
            runs_dir: has the files of a store that is neither a server nor a file.
            check_pages: read every page of an SQLite file, because one was seen to be damaged.
        """
        from mlflow import MlflowClient

        self.uri, self.runs_dir, self._warnings = uri, runs_dir, list[str]()
        self._database, self._file = store_uri.get_sqlite_path(uri), ""
        if store_uri.is_server(uri):
            from mlflow.utils.credentials import read_mlflow_creds

            login = read_mlflow_creds()
            has_login = bool(login.username or login.password or os.environ.get("MLFLOW_TRACKING_TOKEN"))
            store_uri.check_login(uri, has_login, os.environ.get("MLFLOW_TRACKING_URI"))
            self._client = MlflowClient(tracking_uri=uri)
            return
        database = self._database
        lock = database.with_name(f".{database.name}.lock") if database else runs_dir / ".store.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with locked_within_limits(lock):
            if database:
                repaired = sqlite_store.make_complete(database, _make_sqlite, check_pages=check_pages)
                moved = sqlite_store.relocate_artifacts(database, store_uri.get_artifacts_folder(uri, runs_dir))
                self._warnings = [warning for warning in (repaired, moved) if warning]
                self._file = self._identify_file()
            self._client = MlflowClient(tracking_uri=uri)  # creating the client creates the schema of a database server
        if database:
            _forget_file(self._client)  # an earlier file with this name, and places of its artifacts

    def take_warnings(self) -> list[str]:
        """Return what was repaired when the store was opened, once."""
        warnings, self._warnings = self._warnings, []
        return warnings

    def was_replaced(self) -> bool:
        """Whether the file of the store is missing, or another one than when it was opened."""
        return self._file != self._identify_file()

    def _identify_file(self) -> str:
        try:
            status = os.stat(self._database) if self._database else None
        except FileNotFoundError:
            return "missing"
        return f"{status.st_dev} {status.st_ino}" if status else ""

    @property
    def client(self) -> MlflowClient:
        """MLflow's own client, for everything but runs."""
        return self._client

    def get_run(self, run_id: str) -> StoredRun | None:
        """Get a run by its id, restored if it was deleted; None if it does not exist."""
        from mlflow.exceptions import MlflowException

        try:
            return self._restore(self._client.get_run(run_id))
        except MlflowException as err:
            if err.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def find_or_create_run(
        self, experiment: str, key: Mapping[str, str], *, name: str, started: float, tags: Mapping[str, str]
    ) -> StoredRun:
        """Find the run with a unique combination of tags, or create it.

        Args:
            experiment: name of MLflow's experiment.
            key: these tags. The caller holds a lock, so that no other process creates the run meanwhile.
            name: of a new run.
            started: start time of a new run.
            tags: further tags of a new run.
        """
        from mlflow.entities import ViewType

        experiment_id = self._experiment_id(experiment)
        by_key = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in key.items())
        known = self._client.search_runs([experiment_id], by_key, run_view_type=ViewType.ALL, max_results=1)
        if known:
            return self._restore(known[0])
        new = self._client.create_run(experiment_id, start_time=to_ms(started), tags={**tags, **key}, run_name=name)
        return self._restore(new)

    def _restore(self, run: Run) -> StoredRun:
        was_deleted = run.info.lifecycle_stage == "deleted"
        if was_deleted:
            self._client.restore_run(run.info.run_id)
        return StoredRun(
            run.info.run_id, run.info.experiment_id, set(run.data.params), dict(run.data.tags), was_deleted,
            bool(run.data.metrics),
        )  # fmt: skip

    def _experiment_id(self, name: str) -> str:
        """Find or create the experiment; after a race `mlflow.set_experiment` would use experiment 0."""
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            is_server = store_uri.is_server(self.uri)
            location = None
            if not is_server:
                make_ignored(folder := store_uri.get_artifacts_folder(self.uri, self.runs_dir))
                location = folder.as_uri()
            try:
                return str(self._client.create_experiment(name, artifact_location=location))
            except MlflowException as err:
                if err.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = self._client.get_experiment_by_name(name)
                assert experiment is not None, name
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def ui_version(self) -> str | None:
        """Return the version of MLflow whose UI shows this store: of the server, else the installed one."""
        import mlflow
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        if not store_uri.is_server(self.uri):
            return str(mlflow.__version__)
        login = get_default_host_creds(self.uri)  # type: ignore[no-untyped-call]
        answer = http_request(login, "/version", "GET")  # type: ignore[no-untyped-call]
        return answer.text.strip() if answer.ok else None

    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        """Set or replace a tag of an experiment; MLflow's UI stores saved views there."""
        self._client.set_experiment_tag(experiment_id, key, value)

    def log_metrics(self, run_id: str, events: Iterable[journal.MetricsEvent]) -> int:
        """Send points with their original times: MLflow stores a repeated point once."""
        from mlflow.entities import Metric

        points = [
            Metric(make_metric_name(key), value, to_ms(event["time"]), event["step"])
            for event in events
            for key, value in event["metrics"].items()
        ]
        for start in range(0, len(points), METRICS_PER_CALL):
            self._client.log_batch(run_id, metrics=points[start : start + METRICS_PER_CALL])
        return len(points)

    def log_params(self, run_id: str, texts: Mapping[str, str]) -> None:
        """Log parameters that the run does not have yet: MLflow refuses to change a parameter."""
        from mlflow.entities import Param

        params = [Param(key, text) for key, text in texts.items()]
        for start in range(0, len(params), PARAMS_PER_CALL):
            self._client.log_batch(run_id, params=params[start : start + PARAMS_PER_CALL])

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set or replace tags; for the name of a run see `rename`."""
        from mlflow.entities import RunTag

        entities = [RunTag(key, value[:MAX_TAG]) for key, value in tags.items()]
        for start in range(0, len(entities), PARAMS_PER_CALL):
            self._client.log_batch(run_id, tags=entities[start : start + PARAMS_PER_CALL])

    def rename(self, run_id: str, name: str) -> None:
        self._client.update_run(run_id, name=name)

    def set_status(self, run_id: str, status: str, ended: float | None) -> None:
        """Set the status of a run, one of MLflow's; `ended` is None while it runs."""
        if ended is None:
            self._client.update_run(run_id, status=status)
        else:
            self._client.set_terminated(run_id, status, to_ms(ended))

    def log_data(self, run_id: str, events: Sequence[journal.DataEvent]) -> None:
        """Log which data a run reads."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    name=f"{event['name']}/{event['split']}",  # MLflow stores one entry per name and digest
                    digest=event["digest"][:MAX_DIGEST],
                    source_type="local",
                    source=json.dumps({"uri": event["name"]}),
                    profile=json.dumps({"num_examples": event["num_examples"]}),
                ),
                [InputTag("mlflow.data.context", event["split"])],
            )
            for event in events
        ]
        if inputs:
            self._client.log_inputs(run_id, inputs)

    def upload(self, run_id: str, root: Path, name: str) -> None:
        """Upload a file or folder of a root; skip a path that does not exist or is outside the root."""
        root = root.resolve()
        path = (root / name).resolve()
        if not (path.is_relative_to(root) and path.exists()):
            return
        log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        into = (path if path.is_dir() else path.parent).relative_to(root)
        log(run_id, str(path), None if into == Path() else str(into))


def _make_sqlite(database: Path) -> None:
    """Make a store with MLflow's schema in a new file."""
    from mlflow import MlflowClient

    _forget_file(MlflowClient(tracking_uri=store_uri.make_sqlite_uri(database)))


def _forget_file(client: MlflowClient) -> None:
    """Close the connections that MLflow keeps open to a database, and forget what it keeps of its runs."""
    from mlflow.tracking._tracking_service import utils

    client._tracking_client.store.engine.dispose()
    utils._artifact_repos_cache.clear()


def to_ms(seconds: float) -> int:
    return round(seconds * 1000)
