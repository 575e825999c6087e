"""Deletes what an MLflow store has of a run or a sweep: rows, artifacts, and models that are not registered."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from experiments.tracking import mlflow_client, store_uri
from experiments.tracking.mlflow_client import Store
from experiments.tracking.store_uri import StoreError
from experiments.tracking.trackers.make_tracker import MLFLOW, list_trackers
from experiments.trial.parameters import mask_password

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel as StoredModel
    from mlflow.entities import Run

RUN_KEY, SWEEP_KEY = "lathe.run_key", "lathe.sweep_key"
"""The tags by which all MLflow runs of a run, or of a sweep and its trials, are found."""
PAGE_SIZE = 1000


def delete_runs(
    config: Mapping[str, Any], tag: str, key: str, name: str, runs_dir: Path, *, is_synced: bool
) -> list[str]:
    """Delete the MLflow runs that have a key. A repeated call deletes what an interrupted one left.

    Args:
        config: of the run, or of a trial of the sweep.
        tag: `RUN_KEY` or `SWEEP_KEY`.
        key: unique key of the run or the sweep.
        name: of the run or the sweep, for messages.
        runs_dir: the folder that the run was in.
        is_synced: whether a sync has recorded that the store has it; if not, a server is not asked.

    Returns:
        A line for each thing that remains, such as a registered model.

    Raises:
        StoreError: the store cannot be reached, or refuses. What is not deleted yet is still there.
    """
    if MLFLOW not in list_trackers(config) or not re.fullmatch(r"[\w-]+", key):
        return []
    written = config["tracking"]["store"]
    uri = store_uri.resolve_store(written, runs_dir)
    database = store_uri.get_sqlite_path(uri)
    if not (is_synced if database is None else database.exists()):
        return []
    errors = mlflow_client.get_store_errors()
    try:
        store = mlflow_client.open_store(uri, runs_dir)
        remaining = [
            line for run in _find(store, config["tracking"]["experiment"], tag, key) for line in _delete(store, run)
        ]
    except errors as err:
        reason = mask_password(mlflow_client.get_first_line(err).replace(uri, written or uri))[:300]
        raise StoreError(f"tracking.store={mask_password(written or uri)} did not delete {name!r}: {reason}") from err
    return list(dict.fromkeys(remaining))


def _find(store: Store, experiment: str, tag: str, key: str) -> list[Run]:
    """The MLflow runs with a key, and those that were set aside because files of the run were lost."""
    from mlflow.entities import ViewType

    known = store.client.get_experiment_by_name(experiment)
    if known is None:
        return []
    found: dict[str, Run] = {}
    for query in (f"tags.`{tag}` = '{key}'", f"tags.`{tag}` LIKE '{key}-lost-%'"):
        token = None
        while True:
            page = store.client.search_runs(
                [known.experiment_id], query, run_view_type=ViewType.ALL, max_results=PAGE_SIZE, page_token=token
            )
            # `_` in a key stands for any letter in LIKE.
            found |= {run.info.run_id: run for run in page if str(run.data.tags.get(tag)).startswith(key)}
            if not (token := page.token):
                break
    return list(found.values())


def _delete(store: Store, run: Run) -> Iterator[str]:
    """Delete one MLflow run, its row last, so that an interrupted deletion is found again; yields what remains."""
    run_id, backend = run.info.run_id, store.client._tracking_client.store
    registered = _list_registered(store, run_id)
    for model in _list_models(store, run):
        if model.model_id in registered:
            yield f"model {registered[model.model_id]} stays, because it is registered; delete it in MLflow's UI"
            continue
        yield from _delete_artifacts(store, model.artifact_location, model.model_id)
        with contextlib.suppress(*mlflow_client.get_store_errors()):  # deleted already
            store.client.delete_logged_model(model.model_id)
        if hasattr(backend, "_hard_delete_logged_model"):  # as `mlflow gc` does (3.17)
            backend._hard_delete_logged_model(model.model_id)
    yield from _delete_artifacts(store, run.info.artifact_uri, run_id)
    if run.info.lifecycle_stage != "deleted":
        store.client.delete_run(run_id)
    if hasattr(backend, "_hard_delete_run"):
        backend._hard_delete_run(run_id)
    else:
        yield "the server keeps deleted runs until its administrator runs `mlflow gc`"


def _list_registered(store: Store, run_id: str) -> dict[str, str]:
    """The registered models of a run: name and version by model id."""
    versions = store.client.search_model_versions(f"run_id='{run_id}'")
    return {one.model_id or str(one.source).rpartition("/")[2]: f"{one.name} version {one.version}" for one in versions}


def _list_models(store: Store, run: Run) -> list[StoredModel]:
    query = f"source_run_id='{run.info.run_id}'"
    try:
        return list(store.client.search_logged_models([run.info.experiment_id], filter_string=query))
    except mlflow_client.get_store_errors():
        if not store_uri.is_server(store.uri):
            raise
        return []  # a server of MLflow 2, which has no logged models


def _delete_artifacts(store: Store, uri: str | None, name: str) -> Iterator[str]:
    """Delete the artifacts of a run or a model; yields why they remain.

    A folder on this machine is deleted only where MLflow puts it: ``.../<id of the run or model>/artifacts``.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if not uri:
        return
    if urlsplit(uri).scheme in ("", "file"):
        folder = Path(unquote(urlsplit(uri).path))
        is_own = (folder.name, folder.parent.name) == ("artifacts", name)
        if is_own and folder.is_dir() and not folder.is_symlink() and not folder.parent.is_symlink():
            shutil.rmtree(folder)
            with contextlib.suppress(OSError):  # another program has put files beside it
                os.rmdir(folder.parent)
        return
    try:
        get_artifact_repository(uri, tracking_uri=store.uri).delete_artifacts()  # type: ignore[no-untyped-call]
    except (NotImplementedError, *mlflow_client.get_store_errors()) as err:  # type: ignore[misc]
        yield f"the artifacts in {mask_password(uri)} remain: {mask_password(mlflow_client.get_first_line(err))[:200]}"
