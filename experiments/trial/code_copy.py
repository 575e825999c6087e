"""Copies the code for the workers of a sweep, so that editing the checkout does not change a running sweep."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from experiments.core.files.packages import OWN_FOLDERS, PACKAGES, PREFIX, find_package
from experiments.core.runs_dir import is_run_file

CODE = "code/packages"
"""Path of the copy in the folder of the sweep."""
USER = "user"
"""The folder next to it, for trusted packages that have the name of a package of Lathe."""
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

    for own in OWN_FOLDERS:
        shutil.copytree(own, folder / own.name, ignore=ignore, dirs_exist_ok=True)
    for package in trust:
        path = _find_package(package)
        if path is None:
            continue
        to = folder.parent / USER if path.stem in PACKAGES and not PREFIX else folder
        if path.is_dir():
            shutil.copytree(path, to / path.name, ignore=ignore, dirs_exist_ok=True)
        else:
            to.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, to / path.name)


def _find_package(package: str) -> Path | None:
    """Folder or file of a package; None for an installed one, which the compute nodes have too."""
    spec = find_package(package)
    if spec is None:
        return None
    path = next(iter(spec.submodule_search_locations or ()), spec.origin)
    if path is None or {"site-packages", "dist-packages"} & set(Path(path).parts):
        return None
    return Path(path)
