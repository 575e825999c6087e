"""Brings journals into MLflow, live or later; the only file that writes to MLflow. A replay changes nothing twice."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from experiments import atomic, describe, journal
from experiments.faults import did_you_mean
from experiments.trial import Trial

if TYPE_CHECKING:
    from mlflow import MlflowClient

_METRICS_PER_CALL, _PARAMS_PER_CALL = 1000, 100  # MLflow refuses more
_BLOCK_BYTES = 1 << 20
_MAX_DIGEST = 36
_STATUS = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "failed": "FAILED",
    "stopped": "KILLED",
    "killed": "KILLED",
}


class SyncError(Exception):
    """The store could not be brought up to date; nothing is lost, the next sync goes on from there."""


@dataclass(frozen=True)
class Synced:
    """What one sync of a run did: `run_id` is None where nothing has happened yet; `warnings` are lines to show."""

    run_id: str | None
    experiment_id: str | None
    points: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """What `sync_all` did: runs brought up to date, points sent, and a line for each run that failed."""

    runs: int
    points: int
    failures: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@dataclass
class _Progress:
    """How far a run has come into a store; `sync.json` in the run folder."""

    store: str = ""
    run_id: str = ""
    experiment_id: str = ""
    offsets: dict[str, int] = field(default_factory=dict)  # attempt -> bytes of its journal
    artifacts: list[str] = field(default_factory=list)  # paths still to upload
    last_state: dict[str, Any] | None = None
    last_time: float = 0.0
    status: list[object] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path, store: str) -> _Progress:
        """Read what stands in the file; start over where it is missing, damaged or about another store."""
        try:
            progress = cls(**json.loads(path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return cls(store=store)
        return progress if progress.store == store else cls(store=store)


# ---- the store ----


def store_uri(trial: Trial) -> str:
    """The URI of a trial's store with its `${oc.env:NAME}` filled in: never to be shown."""
    return resolve_store(trial.config["tracking"]["store"], trial.runs_dir)


def resolve_store(store: str | None, runs_dir: Path) -> str:
    """The URI that a value of `tracking.store` means; None is the SQLite file `mlflow.db` in `runs_dir`."""
    return f"sqlite:///{runs_dir.resolve() / 'mlflow.db'}" if store is None else resolve_env(store)


def resolve_env(value: str) -> str:
    """Fill in every `${oc.env:NAME}` and `${oc.env:NAME,default}`."""

    def fill(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], match[2])
        if found is None:
            raise SyncError(f"tracking.store={value} needs the variable {match[1]}, which is not set; export it first")
        return found

    return re.sub(r"\$\{oc\.env:(\w+)(?:,([^}]*))?\}", fill, value)


def sqlite_path(uri: str) -> Path | None:
    """The file behind an SQLite URI, None for any other store."""
    return Path(uri.partition("///")[2].partition("?")[0]) if uri.startswith("sqlite:") else None


@lru_cache(maxsize=8)
def _connect(uri: str, runs_dir: Path) -> MlflowClient:
    """Open the store; one process at a time, as 7 of 8 that create the schema at once crash (MLflow 3.17)."""
    defaults = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # its default blocks 246 s on a dead server; who calls this retries
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    if uri.startswith(("http:", "https:")):
        return MlflowClient(tracking_uri=uri)
    database = sqlite_path(uri)
    beside = database.with_name(f"{database.name}.lock") if database else runs_dir / "store.lock"
    beside.parent.mkdir(parents=True, exist_ok=True)
    with _locked(beside):
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)  # the schema is made at the first use
    return client


def _experiment_id(client: MlflowClient, uri: str, runs_dir: Path, name: str) -> str:
    """Find or create the experiment. `mlflow.set_experiment` puts the loser of a race into experiment 0, this does not."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        artifacts = None
        if not uri.startswith(("http:", "https:")):  # a server has its own place, a file's default is the working folder
            artifacts = ((sqlite_path(uri) or runs_dir / "x").resolve().parent / "artifacts").as_uri()
        try:
            return client.create_experiment(name, artifact_location=artifacts)
        except MlflowException as err:
            if err.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)
            assert experiment is not None
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ---- one run ----


class _RunSync:
    """Syncs one run, once or again and again; every call is a round of its own under the run's lock."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self._verified = ""  # the run id that this process has seen in the store
        self._known_params: set[str] = set()
        self._warnings: list[str] = []

    def round(self, *, reconcile: bool) -> Synced:
        """Upload what is new, then set the status.

        Raises:
            SyncError: the store did not take it, or the run folder is damaged.
        """
        from sqlalchemy.exc import SQLAlchemyError

        tracking = self.trial.config["tracking"]
        try:
            uri = store_uri(self.trial)
            client = _connect(uri, self.trial.runs_dir)
            from mlflow.exceptions import MlflowException
        except (SQLAlchemyError, OSError, ImportError, ValueError) as err:
            raise self._error(err) from err
        except Exception as err:  # MlflowException has no name before the import that may fail
            if type(err).__name__ != "MlflowException":
                raise
            raise self._error(err) from err
        try:
            with _locked(self.trial.folder / "sync.lock"):
                progress = _Progress.load(self.trial.folder / "sync.json", tracking["store"] or uri)
                return self._round(client, uri, progress, reconcile)
        except (MlflowException, SQLAlchemyError, OSError) as err:
            self._verified = ""
            raise self._error(err) from err
