"""Which MLflow store a run belongs to, and where that lies."""

from __future__ import annotations

import re
from pathlib import Path

from experiments.core.secrets import resolve
from experiments.trial.trial import Trial


class StoreError(Exception):
    """MLflow's store cannot be named, reached or brought up to date; the journals hold all that it lacks."""


def resolve_trial_store(trial: Trial) -> str:
    """The URI of a trial's store with its `${oc.env:NAME}` filled in: it may hold a password, so it is never shown."""
    return resolve_store(trial.config["tracking"]["store"], trial.runs_dir)


def resolve_store(store: str | None, runs_dir: Path) -> str:
    """The URI that a value of `tracking.store` means; None is the SQLite file `mlflow.db` in `runs_dir`.

    Raises:
        StoreError: the value points at a variable that is not set.
    """
    if store is None:
        return f"sqlite:///{runs_dir.resolve() / 'mlflow.db'}"
    try:
        return str(resolve(store))
    except KeyError as err:
        name = err.args[0]
        raise StoreError(f"tracking.store={store} needs the variable {name}, which is not set here; export it") from err


def is_server(uri: str) -> bool:
    """Whether a store is an MLflow server, which looks after its schema and its artifacts by itself."""
    return uri.startswith(("http:", "https:"))


def strip_login(uri: str) -> str:
    """The address of a server as a browser takes it: without the user and password that it may hold."""
    return re.sub(r"://[^/@]+@", "://", uri).rstrip("/")


def get_sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite store, None for any other."""
    return Path(uri.partition("///")[2].partition("?")[0]) if uri.startswith("sqlite:") else None


def make_absolute(uri: str) -> str:
    """A store so that it means the same in every folder: the relative path of an SQLite file made absolute, no more."""
    scheme, slashes, rest = uri.partition("///")
    database, mark, query = rest.partition("?")
    if get_sqlite_path(uri) is None or database in ("", ":memory:") or database.startswith("file:"):
        return uri
    return f"{scheme}{slashes}{Path(database).absolute()}{mark}{query}"


def get_artifacts_folder(uri: str, runs_dir: Path) -> Path:
    """Where the artifacts of a store without a server lie: beside its file, else in `runs_dir`."""
    database = get_sqlite_path(uri)
    return (database.parent if database else runs_dir).resolve() / "artifacts"
