"""Weights of an earlier run, or of a file, that a training begins with: found, and kept with the run. Imports no torch."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.core.errors import InputError
from experiments.run.checkpoint import Checkpoints

FILE = "initial.safetensors"
"""Their name in the run's folder: what was submitted is what runs, whatever becomes of the run they come from."""
MODEL = "model.safetensors"
"""That of a checkpoint's weights."""
SAFE = ".safetensors"


def get_initial_weights(config: Mapping[str, Any]) -> str | None:
    """What the user has named; None where a training begins by chance, as those frozen before there was a choice."""
    named: str | None = (config.get("init_from") or {}).get("weights")
    return named


def find_weights(named: str, folder_of: Callable[[str], Path]) -> Path:
    """The file with the weights: one of safetensors, or that of a run's best checkpoint, else of its newest.

    Args:
        named: a file or a run.
        folder_of: finds a run's folder, or raises an `InputError`.

    Raises:
        InputError: there is no such file or run, or it has no checkpoint.
    """
    path = Path(named).expanduser().absolute()
    if path.is_file() and path.suffix != SAFE:
        raise InputError(
            [
                f"init_from.weights={named} does not end in {SAFE}; other files can hold code that runs when they are read"
            ]
        )
    if path.is_file():
        return path
    if path.suffix == SAFE:
        raise InputError([f"init_from.weights={named}: there is no such file; name a run, or a file that is there"])
    try:
        run = folder_of(named)
    except InputError as err:
        raise InputError([f"init_from.weights={named}: {problem}" for problem in err.problems]) from err
    checkpoints = Checkpoints(run, keep_last=1)
    found = checkpoints.best() or checkpoints.latest()
    if found is None:
        raise InputError([f"init_from.weights={named}: run {run} has no checkpoint that is whole; name another run"])
    return found.folder / MODEL


def copy_weights(named: str, folder_of: Callable[[str], Path], folder: Path) -> dict[str, Any]:
    """Put the weights into a run's folder, and say where they come from.

    Raises:
        InputError: they cannot be found.
        OSError: the folder cannot be written.
    """
    source = find_weights(named, folder_of)
    if Path(named).expanduser().is_file():
        shutil.copyfile(source, folder / FILE)
    else:
        _link(source, folder / FILE)  # a checkpoint is never written again, so that a second name for it will do
    with (folder / FILE).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": str(source), "sha256": digest}


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
