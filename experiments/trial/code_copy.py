"""The code that a sweep's workers run: a copy, which editing the checkout does not change."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

from experiments.config.allowlist import HOUSE
from experiments.trial.code_snapshot import PACKAGES

CODE = "code/packages"
"""Where it lies, below the sweep's folder."""
LEFT_OUT = shutil.ignore_patterns(".*")  # compiled code goes along: copies keep their times, by which Python knows it


def copy_packages(trust: Sequence[str], folder: Path) -> None:
    """Copy the house's packages, and those of the trusted ones that lie in no site-packages, to where they can be imported.

    Raises:
        OSError: the disk is full.
    """
    for name in PACKAGES:
        shutil.copytree(HOUSE / name, folder / name, ignore=LEFT_OUT, dirs_exist_ok=True)
    for package in trust:
        place = _place_of(package.partition(".")[0])
        if place is not None and place.is_dir():
            shutil.copytree(place, folder / place.name, ignore=LEFT_OUT, dirs_exist_ok=True)
        elif place is not None:
            shutil.copy2(place, folder / place.name)


def _place_of(package: str) -> Path | None:
    """Folder or file of a package; None for one that is installed, as the nodes have it too."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        return None
    found = next(iter(spec.submodule_search_locations or ()), spec.origin)
    if found is None or {"site-packages", "dist-packages"} & set(Path(found).parts):
        return None
    return Path(found)
