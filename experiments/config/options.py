"""The options of every group, found in the configuration folders."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import conf
from experiments.config.source_map import shown_path
from experiments.core.errors import InputError
from experiments.core.files.paths import user_path

MAX_ENTRIES = 20_000
CONF_DIR = Path(conf.__file__).parent


def folders(config_dirs: Sequence[str | Path] = ()) -> list[Path]:
    """The configuration folders: the built-in one first, then the user's."""
    return [CONF_DIR, *(Path(folder) for folder in config_dirs)]


def user_folders(config_dirs: Sequence[str | Path]) -> list[Path]:
    """The folders of `--config-dir`, as absolute paths.

    Raises:
        InputError: one is not a folder.
    """
    dirs = [user_path(folder, "--config-dir").resolve() for folder in config_dirs]
    problems = [
        f"--config-dir {d} is not a folder; name the folder that holds your groups" for d in dirs if not d.is_dir()
    ]
    if problems:
        raise InputError(problems)
    return dirs


def groups(config_dirs: Sequence[str | Path] = ()) -> dict[str, dict[str, Path]]:
    """The file of every option, by group and option: ``groups()["model"]["mlp"]``."""
    files: dict[str, dict[str, Path]] = {}
    for folder in folders(config_dirs):
        for path in _find_yaml(folder):
            parts = path.relative_to(folder).with_suffix("").parts
            for depth in range(1, len(parts)):
                files.setdefault("/".join(parts[:depth]), {}).setdefault("/".join(parts[depth:]), path)
    return dict(sorted(files.items()))


def find_own_groups(groups: Mapping[str, Mapping[str, Path]]) -> frozenset[str]:
    """The groups that Lathe does not have: folders of yours whose name is no key of the root."""
    own = {
        group
        for group, files in groups.items()
        if group.isidentifier()
        and group != "sweeps"
        and not any(path.is_relative_to(CONF_DIR) for path in files.values())
    }
    return frozenset(own - {*content(CONF_DIR / "config.yaml")} if own else ())


def _find_yaml(folder: Path) -> list[Path]:
    """All YAML files below a folder, sorted.

    Raises:
        InputError: it is the root of too many other files, such as a home folder.
    """
    found: list[Path] = []
    num_entries = 0
    for parent, inner, names in os.walk(folder):
        num_entries += len(inner) + len(names)
        if num_entries > MAX_ENTRIES:
            problem = f"has more than {MAX_ENTRIES:,} files and folders; name the folder that holds only your groups"
            raise InputError([f"--config-dir {folder} {problem}"])
        found += (path for name in names if name.endswith(".yaml") and (path := Path(parent, name)).is_file())
    return sorted(found)


def header(path: Path) -> list[str]:
    """The comment lines at the top of an option's file, without `#` and without the lines for Hydra and for editors."""
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not re.match(r"#\s*(@package|yaml-language-server:)", line):
            lines.append(line.lstrip("#").strip())
    return lines


def content(path: Path) -> dict[Any, Any]:
    """Read the file of an option.

    Raises:
        InputError: the file cannot be read, or is not a map.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as err:
        line = f":{err.problem_mark.line + 1}" if err.problem_mark else ""
        raise InputError([f"{shown_path(path)}{line} is not valid YAML: {err.problem}; correct that line"]) from err
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as err:
        raise InputError([f"{shown_path(path)} cannot be read: {str(err).splitlines()[0]}; correct it"]) from err
    if loaded is not None and not isinstance(loaded, dict):
        kind = "a list" if isinstance(loaded, list) else "a single value"
        raise InputError([f"{shown_path(path)} is {kind}, not a map; write `key: value` lines"])
    return loaded or {}
