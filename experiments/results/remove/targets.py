"""What a removal would delete: the files and the MLflow runs of a run or a sweep, and why it may not be deleted."""

from __future__ import annotations

import os
import shlex
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from experiments.core.files.read_file import DamagedFileError, read_json_map
from experiments.results.manage.facts import read_state
from experiments.results.manage.find import find_sweep_of
from experiments.run import journal
from experiments.run.lock import lock_run
from experiments.sweep.status.progress import read_progress
from experiments.sweep.sweep import Sweep, format_reference
from experiments.sweep.templates import read_templates
from experiments.sweep.worker.reaper import reap
from experiments.tracking import store_uri
from experiments.tracking.store_uri import StoreError
from experiments.tracking.trackers.make_tracker import MLFLOW, list_trackers
from experiments.trial.own_runs import describe_foreign
from experiments.trial.parameters import mask_password
from experiments.trial.trial import Trial

IN_THE_FOLDER = (MLFLOW, "tensorboard", "csv")
"""Trackers of whose copy nothing remains: Lathe deletes that in MLflow, the others write into the run folder."""


@dataclass(frozen=True)
class FolderSize:
    """The files in a folder; links do not count."""

    num_files: int = 0
    size_bytes: int = 0
    shared_bytes: int = 0
    """Of files that have a hard link outside, such as the checkpoint that a longer run continues: they take space until the
    last link goes."""

    def __add__(self, other: FolderSize) -> FolderSize:
        return FolderSize(
            self.num_files + other.num_files, self.size_bytes + other.size_bytes, self.shared_bytes + other.shared_bytes
        )


@dataclass(frozen=True)
class RemovalTarget:
    """One run or sweep."""

    kind: Literal["run", "sweep"]
    name: str
    folder: Path
    state: str
    num_trials: int
    """Of a sweep; 0 for a run."""
    files: FolderSize
    mlflow_runs: int
    """That were synced: one for a run; one for a sweep and one for each of its trials."""
    mlflow_bytes: int
    """Of their artifacts, if these are on this machine."""
    store: str | None
    """The written `tracking.store`; None for the SQLite file of the runs folder."""
    other_trackers: tuple[str, ...] = ()
    """Those that keep a copy elsewhere."""
    problems: tuple[str, ...] = field(default=(), repr=False)
    """Why it may not be deleted."""


def describe_target(found: Trial | Sweep, runs_dir: Path, *, force: bool) -> RemovalTarget:
    """Describe a run or a sweep.

    Args:
        found: the run or the sweep.
        runs_dir: folder of the runs, of the command.
        force: a run whose process is on another machine may be deleted although it may still be alive.

    Raises:
        DamagedFileError: one of its files is damaged.
    """
    is_sweep = isinstance(found, Sweep)
    config = read_templates(found.folder)[0]["config"] if is_sweep else found.config
    state, problems = _find_state(found, force=force)
    problems = [*_check_place(found, runs_dir), *problems]
    num_runs, size = _measure_mlflow(found.folder, config, found.folder.parent if is_sweep else found.runs_dir)
    return RemovalTarget(
        kind="sweep" if is_sweep else "run",
        name=found.folder.name,
        folder=found.folder,
        state=state,
        num_trials=sum(1 for _ in found.folder.glob("*/trial.yaml")) if is_sweep else 0,
        files=measure_files(found.folder),
        mlflow_runs=num_runs,
        mlflow_bytes=size,
        store=mask_password(store) if (store := config["tracking"]["store"]) else None,
        other_trackers=tuple(label for label in list_trackers(config) if label not in IN_THE_FOLDER),
        problems=tuple(problems),
    )


def measure_files(folder: Path) -> FolderSize:
    """Measure all files in a folder; files may disappear meanwhile."""
    num_files, folders = 0, [str(folder)]
    inodes: dict[int, tuple[int, int, int]] = {}  # size, links, links in this folder
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        folders.append(entry.path)
                    elif stat.S_ISREG(status.st_mode):
                        num_files += 1
                        inside = inodes.get(status.st_ino, (0, 0, 0))[2] + 1
                        inodes[status.st_ino] = (status.st_size, status.st_nlink, inside)
    shared = sum(size for size, links, inside in inodes.values() if links > inside)
    return FolderSize(num_files, sum(size for size, _, _ in inodes.values()), shared)


def _check_place(found: Trial | Sweep, runs_dir: Path) -> Iterator[str]:
    """Only what is in the folder of the runs, and is the user's own, may be deleted."""
    home, name = (found.runs_dir if isinstance(found, Sweep) else found.folder.parent.parent), found.folder.name
    kind = "sweep" if isinstance(found, Sweep) else "run"
    if home.resolve() != runs_dir.resolve():
        yield f"{kind} '{name}' is in {home}, not in {runs_dir}; if you mean it, add --runs-dir {shlex.quote(str(home))}"
    elif (reason := describe_foreign(found.folder, runs_dir)) is not None:
        yield f"{found.folder} {reason}; ask its owner to delete it"
    if isinstance(found, Trial) and (sweep := find_sweep_of(found)) is not None:
        yield (
            f"run '{name}' is a trial of sweep '{sweep.name}', whose table and report need it; delete the sweep, or free space "
            "with `lathe gc --checkpoints`"
        )


def _find_state(found: Trial | Sweep, *, force: bool) -> tuple[str, list[str]]:
    """The state of a run or a sweep, and why it must not be deleted in this state."""
    if isinstance(found, Sweep):
        return _find_sweep_state(found)
    if find_sweep_of(found) is not None:
        return read_state(found).state, []
    name, state = found.folder.name, read_state(found)
    hint = f"`lathe cancel {found.reference}` lets it save and stop"
    if is_locked(found.folder):
        return "running", [f"run '{name}' is running; {hint}"]
    if state.state == "running" and not force:
        host = _find_host(found)
        if host == socket.gethostname():
            return state.state, [f"run '{name}' is running; {hint}"]
        return state.state, [
            f"run '{name}' may be running on {host or 'another machine'}; {hint}; if that machine is gone, add --force"
        ]
    return state.state, []


def _find_host(trial: Trial) -> str | None:
    for folder in reversed(trial.attempts()):
        events, _ = journal.read(folder / "journal.jsonl", max_bytes=1)
        for event in events:
            if event["event"] == "state":
                return event["host"]
    return None


def is_locked(folder: Path) -> bool:
    """Whether a process that launches, trains or evaluates a run holds its lock."""
    if not (folder / "run.lock").exists():
        return False
    try:
        lock_run(folder, first=True).close()
    except BlockingIOError:
        return True
    except OSError:  # a folder that cannot be written: its removal reports it
        return False
    return False


def _find_sweep_state(sweep: Sweep) -> tuple[str, list[str]]:
    ledger, observer = sweep.ledger(), sweep.observer()
    reap(sweep, ledger, observer)
    progress = read_progress(sweep, ledger, observer)
    again = f"`lathe cancel {format_reference(sweep)}` ends it"
    if progress.counts["running"]:
        count = progress.counts["running"]
        return progress.state, [f"sweep '{sweep.name}' is running {count} trial{'s' * (count > 1)}; {again}"]
    if progress.queued:
        return progress.state, [f"sweep '{sweep.name}' has {progress.queued} queued workers; {again}"]
    if progress.state == "pending" and ledger.read().submissions and not progress.is_stranded:
        return progress.state, [f"sweep '{sweep.name}' is starting; {again}"]
    return progress.state, []


def _measure_mlflow(folder: Path, config: dict[str, Any], runs_dir: Path) -> tuple[int, int]:
    """The number of MLflow runs, and the size of their artifacts on this machine; from files alone."""
    if MLFLOW not in list_trackers(config):
        return 0, 0
    try:
        synced = read_json_map(folder / "sync.json")
    except DamagedFileError:  # missing, too
        return 0, 0
    children = synced.get("children") if isinstance(synced.get("children"), dict) else {}
    ids = [str(synced.get("run_id") or ""), *(str(child[0]) for child in (children or {}).values() if child)]
    ids = [run_id for run_id in ids if run_id.isalnum()]
    try:
        uri = store_uri.resolve_store(config["tracking"]["store"], runs_dir)
    except StoreError:
        return len(ids), 0
    if store_uri.get_sqlite_path(uri) is None:
        return len(ids), 0
    artifacts = store_uri.get_artifacts_folder(uri, runs_dir)
    return len(ids), sum(measure_files(artifacts / run_id).size_bytes for run_id in ids)
