"""The folder of runs on this machine. It may hold files of the user too, so Lathe knows which of its files are its own."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from experiments.core.files.paths import user_path

VARIABLE, DEFAULT = "LATHE_RUNS", "runs"
SINGLE = "single"
"""Folder of the runs that belong to no sweep."""
SWEEPS_LOCK = ".sweeps.lock"
"""Held while a command looks for a sweep of some name, and creates it."""
REMOVED = ".removed"
"""Folder of what `lathe rm` has not completely deleted yet."""
STORE_FILES = ("mlflow.db", ".mlflow.db", ".store.lock", SWEEPS_LOCK, ".index.json", REMOVED)
"""How the names of the other files begin."""
IGNORE, IGNORE_ALL = ".gitignore", "*\n"


def choose_runs_dir(named: str | Path | None = None) -> Path:
    """The folder that is named, else that in the environment variable, else the default. An empty name counts as none.

    Raises:
        InputError: as `user_path`.
    """
    names = (str(named or ""), os.environ.get(VARIABLE, ""), DEFAULT)
    return user_path(next(name for name in names if name.strip()), "the folder of the runs")


def make_ignored(folder: Path, *, is_new: bool = False) -> None:
    """Make a folder that git ignores, as runs are not code. A folder that exists is left as it is: it may hold other work.

    Args:
        folder: is made, with its parents.
        is_new: refuse a folder that exists.

    Raises:
        FileExistsError: it exists, and ``is_new`` is set.
        OSError: it cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        if is_new:
            raise
        return
    if is_new or not _is_ignored(folder.parent):
        try:
            (folder / IGNORE).write_text(IGNORE_ALL, encoding="utf-8")
        except OSError:  # a full disk: the next call makes the folder again
            (folder / IGNORE).unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()
            raise


def is_run_file(path: Path, runs_dir: Path | None) -> bool:
    """Whether a file or folder in the folder of runs is Lathe's own."""
    if runs_dir is None or path == runs_dir or not path.is_relative_to(runs_dir):
        return False
    top = runs_dir / path.relative_to(runs_dir).parts[0]
    return top.name == SINGLE or top.name.startswith(STORE_FILES) or (top / "sweep.yaml").is_file() or _is_ignored(top)


def _is_ignored(folder: Path) -> bool:
    """Whether `make_ignored` made a folder."""
    try:
        return (folder / IGNORE).read_bytes() == IGNORE_ALL.encode()
    except OSError:
        return False
