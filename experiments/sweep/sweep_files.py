"""Finds and reads sweep files: the built-in ones and those in ``sweeps`` of your folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

import sweeps
from experiments.config.source_map import SourceMap, shown_path
from experiments.core.errors import ConfigError, InputError, did_you_mean

BUILT_IN = Path(sweeps.__file__).parent


def list_sweep_files(config_dirs: Sequence[str | Path] = ()) -> dict[str, Path]:
    """Sweep files by name: the built-in ones and those in ``sweeps`` of your folders."""
    files: dict[str, Path] = {}
    for folder in _folders(config_dirs):
        for path in sorted(folder.glob("*.yaml")):
            files.setdefault(path.stem, path)
    return dict(sorted(files.items()))


def _folders(config_dirs: Sequence[str | Path]) -> list[Path]:
    return [BUILT_IN, *(Path(folder) / "sweeps" for folder in config_dirs)]


def find_sweep_file(name: str, dirs: Sequence[Path]) -> Path:
    """Find a sweep file by its name or path.

    Raises:
        InputError: there is no such file, or two folders have one of this name.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name).expanduser()
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
    from omegaconf.errors import OmegaConfBaseException

    where, subject = shown_path(path), f"the sweep '{path.stem}'"
    try:
        node: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        source_map.add_file(path, "sweep")
    except yaml.MarkedYAMLError as err:
        line = f":{err.problem_mark.line + 1}" if err.problem_mark else ""
        raise ConfigError([f"{where}{line} is not valid YAML: {err.problem}; correct that line"], subject) from err
    except (OmegaConfBaseException, yaml.YAMLError, OSError, ValueError, RecursionError) as err:
        raise ConfigError([f"{where} cannot be read: {str(err).splitlines()[0]}; correct the file"], subject) from err
    if not isinstance(node, dict):
        raise ConfigError([f"{where} is a list, not a map; write `key: value` lines"], subject)
    if not node:
        raise ConfigError([f"{where} has no keys; write at least `space:`, the values of each key to vary"], subject)
    return node
