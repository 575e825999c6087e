"""Initial weights from an earlier run or from files: found, and copied into the run. Imports no torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.config.rules.adapter import find_adapter
from experiments.core.errors import InputError
from experiments.core.files.paths import user_path
from experiments.run.checkpoint import WEIGHTS, Checkpoints
from experiments.trial.run_files import read_config
from experiments.trial.weight_files import INDEX, SAFE, find_in_folder, hash_file, join_shards, list_shards

FILE = "initial.safetensors"
"""Their file in the run folder: a copy, so the earlier run can change or disappear."""
NEWER: dict[str, Any] = {"prefix": None, "rename": {}, "strict": True}
"""Keys of `init_from` that the first version did not have. With these values they change nothing."""


def get_initial_weights(config: Mapping[str, Any]) -> dict[str, str]:
    """The runs, files or folders that `init_from.weights` names, by the part of the model; one for the whole model has the
    part "". Empty for random initial weights.
    """
    named = (config.get("init_from") or {}).get("weights")
    return {} if named is None else dict(named) if isinstance(named, Mapping) else {"": named}


def without_newer(init_from: Mapping[str, Any]) -> dict[str, Any]:
    """`init_from` without the newer keys that change nothing, for the id of a trial."""
    return {key: value for key, value in init_from.items() if key not in NEWER or value != NEWER[key]}


def find_all_weights(named: Mapping[str, str], find_folder: Callable[[str], Path]) -> dict[str, Path]:
    """Find the weights of each part of a model, see `find_weights`."""
    return {part: find_weights(each, find_folder, part) for part, each in named.items()}


def find_weights(named: str, find_folder: Callable[[str], Path], part: str = "") -> Path:
    """Find the weights: a safetensors file, an index of such files, or the best (else newest) checkpoint of a run.

    Args:
        named: a file, a folder with files, or a run.
        find_folder: finds the folder of a run, or raises an `InputError`.
        part: of the model, for messages.

    Raises:
        InputError: there is no such file or run, or it has no checkpoint.
    """
    key = f"init_from.weights.{part}" if part else "init_from.weights"
    path = user_path(named, key).absolute()
    if path.is_file() and path.suffix != SAFE and not path.name.endswith(INDEX):
        raise InputError(
            [f"{key}={named} does not end in {SAFE}; files in other formats can run code when they are read"]
        )
    if path.is_file():
        return path
    if path.suffix == SAFE:
        raise InputError([f"{key}={named}: there is no such file; name a run, or a file that is there"])
    if path.is_dir() and not (path / "trial.yaml").is_file():
        return find_in_folder(path, key)
    try:
        run = find_folder(named)
    except InputError as err:
        raise InputError([f"{key}={named}: {problem}" for problem in err.problems]) from err
    checkpoints = Checkpoints(run, keep_last=1, needed=WEIGHTS)
    checkpoint = checkpoints.delivered()
    if checkpoint is None:
        cause = "".join(f": {warning}" for warning in checkpoints.warnings)
        raise InputError([f"{key}={named}: run {run} has no complete checkpoint{cause}; name another run"])
    if find_adapter(read_config(run)) is not None:
        raise InputError(
            [
                f"{key}={named}: the checkpoints of run {run} hold only its adapter; write the whole model with "
                f"`lathe export {named} -o DIR`, and name DIR/data/model/model.safetensors"
            ]
        )
    return checkpoint.weights


def copy_weights(named: Mapping[str, str], find_folder: Callable[[str], Path], folder: Path) -> dict[str, Any]:
    """Copy the weights into one file of a run folder that has no copy yet, and return their source and checksum.

    The names of the weights of a part begin with the part: `weight` of the part `reader` is `reader.weight` in the file.

    Args:
        named: `get_initial_weights`, not empty.
        find_folder: as for `find_weights`.
        folder: of the run.

    Raises:
        InputError: the weights cannot be found.
        OSError: the folder cannot be written.
    """
    if (folder / FILE).exists():  # of the run that this one reproduces
        return {**_describe_sources(named), "sha256": hash_file(folder / FILE)}
    sources = find_all_weights(named, find_folder)
    shards = [(part, shard) for part, source in sources.items() for shard in list_shards(source)]
    whole = named.get("")
    if len(shards) > 1 or whole is None:
        join_shards(shards, folder / FILE)
    elif user_path(whole).exists() and not (user_path(whole) / "trial.yaml").is_file():
        shutil.copyfile(shards[0][1], folder / FILE)
    else:
        link_or_copy(sources[""], folder / FILE)  # checkpoints never change, so a hard link is enough
    described = _describe_sources({part: str(source) for part, source in sources.items()})
    return {**described, "sha256": hash_file(folder / FILE)}


def list_sources(provenance: Mapping[str, Any]) -> list[str]:
    """The files from which the initial weights of a run were copied."""
    initial = provenance.get("initial") or {}
    return [*filter(None, [initial.get("file")]), *(initial.get("files") or {}).values()]


def _describe_sources(sources: Mapping[str, str]) -> dict[str, Any]:
    return {"file": sources[""]} if [*sources] == [""] else {"files": dict(sources)}


def check_copy(folder: Path, provenance: Mapping[str, Any]) -> None:
    """Check that the copy in a run folder is still what was frozen.

    Raises:
        InputError: it has changed or is missing.
    """
    expected = (provenance.get("initial") or {}).get("sha256")
    if not (folder / FILE).is_file():
        raise InputError([f"{folder / FILE} is missing, with which this run begins; start a new run"])
    if expected is not None and hash_file(folder / FILE) != expected:
        raise InputError([f"{folder / FILE} has changed since the run was frozen; restore it, or start a new run"])


def link_or_copy(source: Path, target: Path) -> None:
    """Make a hard link to a file, or a copy on another file system."""
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
