"""Deletes the folder of a run or a sweep and its MLflow runs, so that an interruption at any point can be finished later.

First the folder is renamed to ``.removed/<unique>/<name>`` in the folder of the runs, where no command looks for runs. Then the
MLflow runs are deleted, with the record in the folder. Then ``<unique>`` is renamed to ``<unique>.files``, and its files are
deleted.
"""

from __future__ import annotations

import errno
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from experiments.core.atomic import fsync
from experiments.core.errors import InputError
from experiments.core.lock import LockHeldError, locked_within_limits
from experiments.core.runs_dir import REMOVED
from experiments.run.lock import lock_run
from experiments.sweep.sweep import Sweep
from experiments.sweep.templates import read_templates
from experiments.tracking.store_uri import StoreError
from experiments.tracking.trackers.mlflow_removal import RUN_KEY, SWEEP_KEY, delete_runs
from experiments.trial.own_runs import describe_foreign
from experiments.trial.trial import Trial

FILES = ".files"
"""Ending of a folder whose MLflow runs are deleted, so that only files are left."""
FULL = (errno.ENOSPC, errno.EDQUOT)


class UnfinishedError(Exception):
    """Something could not be deleted. It is in `.removed`; `lathe gc` deletes it."""


def move_away(folder: Path, runs_dir: Path) -> Path:
    """Rename the folder of a run or a sweep, so that it is no longer one. Nothing of it is deleted yet.

    Args:
        folder: of a run that is not running, or of a sweep that is over.
        runs_dir: its folder of runs.

    Returns:
        The place in `.removed`, for `finish`.

    Raises:
        InputError: it has been started meanwhile, or the folder of the runs cannot be written.
    """
    if (runs_dir / REMOVED).is_symlink():
        raise InputError([f"{runs_dir / REMOVED} is a link, which could lead out of the runs; remove it"])
    place = runs_dir / REMOVED / secrets.token_hex(4)
    with ExitStack() as locks:
        try:
            if (folder / "trial.yaml").exists():
                locks.enter_context(lock_run(folder, first=True))
            locks.enter_context(locked_within_limits(folder / "sync.lock"))  # a sync still writes into the folder
        except BlockingIOError as err:
            hint = f"`lathe cancel {folder.name}` lets it save and stop"
            raise InputError([f"run '{folder.name}' has been started meanwhile; {hint}"]) from err
        except LockHeldError as err:
            raise InputError([f"{folder} is being copied to MLflow: {err}"]) from err
        except OSError as err:
            if err.errno not in FULL:
                raise _describe(folder, err) from err
        try:
            _make(place, folder)
            folder.rename(place / folder.name)
        except OSError as err:
            with suppress(OSError):
                place.rmdir()
            raise _describe(folder, err) from err
    with suppress(OSError):
        fsync(folder.parent)
        fsync(place)
    return place


def _make(place: Path, folder: Path) -> None:
    """Make the place; on a full disk, after deleting the checkpoints of what will be deleted anyway."""
    try:
        place.mkdir(parents=True)
    except OSError as err:
        if err.errno not in FULL:
            raise
        for checkpoints in (folder / "checkpoints", *folder.glob("*/checkpoints")):
            if not checkpoints.is_symlink():
                shutil.rmtree(checkpoints, ignore_errors=True)
        place.mkdir(parents=True)


def _describe(folder: Path, err: OSError) -> InputError:
    return InputError([f"{folder} cannot be deleted: {err.strerror or err} ({err.filename}); make it writable"])


def list_unfinished(runs_dir: Path) -> list[Path]:
    """The places of removals that were interrupted."""
    folder = runs_dir / REMOVED
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(place for place in folder.iterdir() if place.is_dir() and not place.is_symlink())


def finish(place: Path, *, keep_mlflow: bool) -> list[str]:
    """Delete what was moved to a place: its MLflow runs, then its files.

    Args:
        place: of `move_away` or `list_unfinished`.
        keep_mlflow: leave the MLflow runs.

    Returns:
        A line for each thing that remains in MLflow.

    Raises:
        UnfinishedError: with what remains, and the command that deletes it.
    """
    runs_dir, remaining = place.parent.parent, list[str]()
    try:
        for folder in (place, *place.iterdir()):
            if (reason := describe_foreign(folder, runs_dir)) is not None:
                raise UnfinishedError(f"{folder} {reason}; ask its owner to delete it")
        if not place.name.endswith(FILES):
            for folder in sorted(place.iterdir()) if not keep_mlflow else ():
                remaining += _delete_mlflow(folder, runs_dir)
            place = place.rename(place.with_name(f"{place.name}{FILES}"))
        shutil.rmtree(place)
    except FileNotFoundError:  # another process deletes it too
        shutil.rmtree(place, ignore_errors=True)
    except OSError as err:
        raise UnfinishedError(
            f"{err.filename} cannot be deleted: {err.strerror}; make it writable, then run `lathe gc --yes`"
        ) from err
    with suppress(OSError):  # others are unfinished
        place.parent.rmdir()
    return remaining


def _delete_mlflow(folder: Path, runs_dir: Path) -> list[str]:
    name = folder.name
    try:
        return [f"{name}: {line}" for line in _delete_known(folder, runs_dir)]
    except (StoreError, InputError) as err:
        reason = "; ".join(err.problems) if isinstance(err, InputError) else str(err)
        raise UnfinishedError(
            f"{name}: {reason}; until its MLflow runs are deleted, its folder stays in {folder.parent}: `lathe gc --yes` "
            "tries again, and `lathe gc --yes --keep-mlflow` leaves them and deletes the folder"
        ) from err


def _delete_known(folder: Path, runs_dir: Path) -> Iterator[str]:
    if folder.is_symlink():
        return
    if (folder / "sweep.yaml").is_file():
        tag, key, config = SWEEP_KEY, Sweep(folder).key, read_templates(folder)[0]["config"]
    elif (folder / "trial.yaml").is_file():
        tag, key, config = RUN_KEY, str(Trial(folder).provenance["run_key"]), Trial(folder).config
    else:
        return
    is_synced = (folder / "sync.json").exists()
    yield from delete_runs(config, tag, key, folder.name, runs_dir, is_synced=is_synced)
