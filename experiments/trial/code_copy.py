"""Copies the code for the workers of a sweep, so that editing the checkout does not change a running sweep."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

from experiments.config.allowlist import PROJECT_ROOT
from experiments.core.runs_dir import is_run_file
from experiments.trial.code_snapshot import PACKAGES

CODE = "code/packages"
"""Path of the copy in the folder of the sweep."""
IGNORED = shutil.ignore_patterns(
    ".*"
)  # compiled code is copied too: Python recognises it by the times, which the copy keeps


def copy_packages(trust: Sequence[str], folder: Path) -> None:
    """Copy the built-in packages and the trusted packages that are not in site-packages, without runs that lie in them.

    Args:
        trust: the trusted packages.
        folder: `CODE` in the folder of a sweep.

    Raises:
        OSError: the disk is full.
    """
    runs_dir = folder.parents[len(Path(CODE).parts)]

    def ignore(parent: str, names: list[str]) -> set[str]:
        return IGNORED(parent, names) | {name for name in names if is_run_file(Path(parent, name), runs_dir)}

    for name in PACKAGES:
        shutil.copytree(PROJECT_ROOT / name, folder / name, ignore=ignore, dirs_exist_ok=True)
    for package in trust:
        path = _find_package(package.partition(".")[0])
        if path is not None and path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=ignore, dirs_exist_ok=True)
        elif path is not None:
            shutil.copy2(path, folder / path.name)


def _find_package(package: str) -> Path | None:
    """Folder or file of a package; None for an installed one, which the compute nodes have too."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        return None
    path = next(iter(spec.submodule_search_locations or ()), spec.origin)
    if path is None or {"site-packages", "dist-packages"} & set(Path(path).parts):
        return None
    return Path(path)
