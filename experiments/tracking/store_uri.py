"""Resolves which MLflow store a run belongs to, and where that store keeps its files."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from experiments.core.secrets import resolve
from experiments.trial.trial import Trial


class StoreError(Exception):
    """MLflow's store cannot be resolved, reached or updated; the journals still hold all data.

    Attributes:
        is_permanent: True if the store would refuse the same again, so that only a person can mend it.
    """

    def __init__(self, message: str, *, is_permanent: bool = False) -> None:
        super().__init__(message)
        self.is_permanent = is_permanent


def resolve_trial_store(trial: Trial) -> str:
    """Resolve the store of a trial, `${oc.env:NAME}` included. The URI may hold a password: never print it."""
    return resolve_store(trial.config["tracking"]["store"], trial.runs_dir)


def resolve_store(store: str | None, runs_dir: Path) -> str:
    """Resolve a value of `tracking.store` to a URI; None is the SQLite file `mlflow.db` in `runs_dir`.

    Raises:
        StoreError: the value refers to an environment variable that is not set.
    """
    if store is None:
        return make_sqlite_uri(runs_dir.resolve() / "mlflow.db")
    try:
        return str(resolve(store))
    except KeyError as err:
        name = err.args[0]
        raise StoreError(
            f"tracking.store={store} needs the environment variable {name}, which is not set; export it",
            is_permanent=True,
        ) from err


def check_login(uri: str, has_login: bool, address: str | None) -> None:
    """Refuse to send the login of one MLflow server to another one: MLflow itself sends it to every server.

    Args:
        uri: of the store.
        has_login: whether MLflow has a user and password, or a token.
        address: `MLFLOW_TRACKING_URI`, the server that the login is for; None: any that the user names.

    Raises:
        StoreError: the login is for another server.
    """
    if not (has_login and address and is_server(uri)) or _get_origin(uri) == _get_origin(address):
        return
    raise StoreError(
        f"tracking.store={strip_login(uri)} is another server than MLFLOW_TRACKING_URI={strip_login(address)}, which the login "
        "in MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_TOKEN or ~/.mlflow/credentials is for; set MLFLOW_TRACKING_URI to the "
        "server that may get the login, or unset the login"
    )


def _get_origin(uri: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(uri)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or default


def is_server(uri: str) -> bool:
    """Whether a store is an MLflow server, which manages its schema and artifacts itself."""
    return uri.startswith(("http:", "https:"))


def strip_login(uri: str) -> str:
    """Return the address of a server without the user and password that it may hold."""
    return re.sub(r"://[^/@]+@", "://", uri).rstrip("/")


def get_sqlite_path(uri: str) -> Path | None:
    """Return the file of an SQLite store; None for any other store, and for a database in memory."""
    database = uri.partition("///")[2].partition("?")[0]
    has_file = re.match(r"sqlite(\+\w+)?:", uri) and not (database in ("", ":memory:") or database.startswith("file:"))
    return Path(unquote(database)) if has_file else None


def make_sqlite_uri(path: Path) -> str:
    """Return the URI of an SQLite file, whose path may hold ``?``, ``#`` and ``%``."""
    quoted = _quote(path)
    # MLflow makes the parent of a path after `sqlite:///`, but does not unquote it (3.17, 2026-11).
    return f"{'sqlite' if quoted == str(path) else 'sqlite+pysqlite'}:///{quoted}"


def _quote(path: Path) -> str:
    return re.sub("[%?#]", lambda match: quote(match.group()), str(path))


def make_absolute(uri: str) -> str:
    """Make the path of an SQLite file absolute; return any other URI unchanged."""
    scheme, slashes, rest = uri.partition("///")
    database, mark, query = rest.partition("?")
    if get_sqlite_path(uri) is None:
        return uri
    return f"{scheme}{slashes}{_quote(Path(unquote(database)).absolute())}{mark}{query}"


def get_artifacts_folder(uri: str, runs_dir: Path) -> Path:
    """Return the artifact folder of a store without a server: next to its file, else in `runs_dir`."""
    database = get_sqlite_path(uri)
    return (database.parent if database else runs_dir).resolve() / "artifacts"
