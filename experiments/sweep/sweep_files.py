"""Finds and reads sweep files: the built-in ones, those in ``sweeps`` of your folders, and those of your project."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import sweeps
from experiments.config.rules.trusted_files import TrustedFiles, find_in_overrides
from experiments.config.source_map import SourceMap, shown_path
from experiments.core.errors import ConfigError, InputError, did_you_mean
from experiments.core.files.paths import user_path

BUILT_IN = Path(sweeps.__file__).parent
VARIABLE = "LATHE_SWEEPS"
"""Folders with sweep files, as in PATH. A project file sets it."""


def list_sweep_files(config_dirs: Sequence[str | Path] = ()) -> dict[str, Path]:
    """Sweep files by name: the built-in ones, those in ``sweeps`` of your folders, and those of your project."""
    files: dict[str, Path] = {}
    for folder in _folders(config_dirs):
        for path in sorted(folder.glob("*.yaml")):
            files.setdefault(path.stem, path)
    return dict(sorted(files.items()))


def _folders(config_dirs: Sequence[str | Path]) -> list[Path]:
    named = filter(None, os.environ.get(VARIABLE, "").split(os.pathsep))
    folders = [BUILT_IN, *(Path(folder) / "sweeps" for folder in config_dirs), *map(Path, named)]
    return list(dict.fromkeys(folder.resolve() for folder in folders))


def find_sweep_file(name: str, dirs: Sequence[Path]) -> Path:
    """Find a sweep file by its name or path.

    Raises:
        InputError: there is no such file, or two folders have one of this name.
    """
    path = user_path(name)
    if name.endswith((".yaml", ".yml")) or "/" in name:
        if not path.is_file():
            raise InputError([f"there is no file {name}; `lathe options sweeps` lists the sweeps with a name"])
        return path.resolve()
    paths = [path for folder in _folders(dirs) if (path := folder / f"{name}.yaml").is_file()]
    if not paths:
        hint = did_you_mean(name, list_sweep_files(dirs), "`lathe options sweeps` lists them")
        raise InputError([f"there is no sweep '{name}'; {hint}"])
    if len(paths) > 1:
        hidden, other = shown_path(paths[1]), shown_path(paths[0])
        raise InputError([f"{hidden} is hidden by {other}, which has the same name; rename it"])
    return paths[0]


def read_sweep_file(path: Path, source_map: SourceMap) -> dict[str, Any]:
    """Read a file as plain values.

    Raises:
        InputError: it is not a YAML map.
    """
    from omegaconf import OmegaConf

    from experiments.config.option_errors import load_file

    try:
        node: dict[str, Any] = OmegaConf.to_container(load_file(path), resolve=False)  # type: ignore[assignment]
    except ConfigError as err:
        raise ConfigError(err.problems, f"the sweep '{path.stem}'") from err
    source_map.add_file(path, "sweep")
    if not node:
        message = f"{shown_path(path)} has no keys; write at least `space:`, the values of each key to vary"
        raise ConfigError([message], f"the sweep '{path.stem}'")
    return node


def find_foreign_settings(
    node: dict[str, Any], path: Path, files: TrustedFiles, groups: Collection[str]
) -> Iterator[str]:
    """Every override in an untrusted sweep file that runs in a shell, sends results or reads the environment."""
    from experiments.config.overrides import read_override

    if path in files:
        return
    points = [override for point in _list(node.get("points")) for override in _list(point)]
    written: list[tuple[str, Any]] = []
    for override in [*_list(node.get("base")), *points]:
        try:
            written.append(read_override(str(override)))
        except InputError:  # `apply` or the schema reports it
            continue
    written += _flatten(node.get("space"))
    for key, effect in find_in_overrides(written, groups):
        hint = f"give `{key.partition('[')[0]}=...` on the command line, or {files.hint(path)}"
        yield f"{key} ({shown_path(path)}) {effect}, and only a file that you trust may do that; {hint}"


def _flatten(space: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a space with its values, also of the spaces inside options: each key is one of the configuration."""
    for key, values in space.items() if isinstance(space, dict) else ():
        if isinstance(values, dict):
            yield from _flatten(values)
        else:
            yield str(key).lstrip("+"), values


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
