"""The options of every group, found in the configuration folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import conf
from experiments.core.errors import InputError

CONF_DIR = Path(conf.__file__).parent


def folders(config_dirs: Sequence[str | Path] = ()) -> list[Path]:
    """The configuration folders: the built-in one first, then the user's."""
    return [CONF_DIR, *(Path(folder) for folder in config_dirs)]


def user_folders(config_dirs: Sequence[str | Path]) -> list[Path]:
    """The folders of `--config-dir`, as absolute paths.

    Raises:
        InputError: one is not a folder.
    """
    dirs = [Path(folder).expanduser().resolve() for folder in config_dirs]
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
        for path in sorted(filter(Path.is_file, folder.rglob("*.yaml"))):
            parts = path.relative_to(folder).with_suffix("").parts
            for depth in range(1, len(parts)):
                files.setdefault("/".join(parts[:depth]), {}).setdefault("/".join(parts[depth:]), path)
    return dict(sorted(files.items()))


def header(path: Path) -> list[str]:
    """The comment lines at the top of an option's file, without `#` and without the `@package` line."""
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not re.match(r"#\s*@package", line):
            lines.append(line.lstrip("#").strip())
    return lines
