"""Initial weights from an earlier run or a file: found, and copied into the run. Imports no torch."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.core.errors import InputError
from experiments.core.files.paths import user_path
from experiments.run.checkpoint import WEIGHTS, Checkpoints

FILE = "initial.safetensors"
"""Their file in the run folder: a copy, so the earlier run can change or disappear."""
"""The file with the weights in a checkpoint."""
SAFE = ".safetensors"


def get_initial_weights(config: Mapping[str, Any]) -> str | None:
    """The run or file that `init_from.weights` names; None for random initial weights."""
    named: str | None = (config.get("init_from") or {}).get("weights")
    return named


def find_weights(named: str, find_folder: Callable[[str], Path]) -> Path:
    """Find the file with the weights: a safetensors file, or that of the best (else newest) checkpoint of a run.

    Args:
        named: a file or a run.
        find_folder: finds the folder of a run, or raises an `InputError`.

    Raises:
        InputError: there is no such file or run, or it has no checkpoint.
    """
    path = user_path(named, "init_from.weights").absolute()
    if path.is_file() and path.suffix != SAFE:
        raise InputError(
            [
                f"init_from.weights={named} does not end in {SAFE}; files in other formats can run code when they are read"
            ]
        )
    if path.is_file():
        return path
    if path.suffix == SAFE:
        raise InputError([f"init_from.weights={named}: there is no such file; name a run, or a file that is there"])
    try:
        run = find_folder(named)
    except InputError as err:
        raise InputError([f"init_from.weights={named}: {problem}" for problem in err.problems]) from err
    checkpoints = Checkpoints(run, keep_last=1, needed=WEIGHTS)
    checkpoint = checkpoints.delivered()
    if checkpoint is None:
        cause = "".join(f": {warning}" for warning in checkpoints.warnings)
        raise InputError([f"init_from.weights={named}: run {run} has no complete checkpoint{cause}; name another run"])
    return checkpoint.weights


def copy_weights(named: str, find_folder: Callable[[str], Path], folder: Path) -> dict[str, Any]:
    """Copy the weights into a run folder, and return their source and checksum.

    Raises:
        InputError: the weights cannot be found.
        OSError: the folder cannot be written.
    """
    source = find_weights(named, find_folder)
    if user_path(named).is_file():
        shutil.copyfile(source, folder / FILE)
    else:
        link_or_copy(source, folder / FILE)  # checkpoints never change, so a hard link is enough
    with (folder / FILE).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": str(source), "sha256": digest}


def link_or_copy(source: Path, target: Path) -> None:
    """Make a hard link to a file, or a copy on another file system."""
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
