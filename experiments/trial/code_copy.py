"""Copies the code for the workers of a sweep, so that editing the checkout does not change a running sweep; and its digest."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
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


OTHER_FILES = (".yaml", ".yml", ".md", ".pyc")
"""Endings of files that do not count for the digest: what a configuration says is in the id of a trial."""
MAX_DIGEST_MB = 20.0
"""Of a larger file, such as data inside a package, only name and size count."""


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


def digest_packages(trust: Sequence[str], config_dirs: Collection[str], runs_dir: Path) -> str:
    """One hash over the code that `copy_packages` copies, without YAML files and folders of configurations.

    Args:
        trust: the trusted packages.
        config_dirs: folders of configurations, which may lie in a package.
        runs_dir: folder of the runs, which may lie in one too.
    """
    digest = hashlib.sha256()
    left_out = {str(Path(folder).resolve()) for folder in config_dirs}
    for top in (*OWN_FOLDERS, *filter(None, map(_find_package, trust))):
        start = str(top.resolve().parent)
        for path in _list_code(str(top.resolve()), left_out, runs_dir):
            size = os.path.getsize(path)
            with open(path, "rb") as file:
                content = file.read() if size <= MAX_DIGEST_MB * 1e6 else str(size).encode()
            digest.update(os.fsencode(os.path.relpath(path, start)) + b"\0" + content + b"\0")
    return digest.hexdigest()


def _list_code(top: str, left_out: Collection[str], runs_dir: Path) -> Iterator[str]:
    """The files of a package that count for the digest, in a fixed order."""
    if os.path.isfile(top):
        yield top
    for parent, folders, names in os.walk(top):
        inside = [name for name in sorted(folders) if name[0] != "." and name != "__pycache__"]
        paths = {name: os.path.join(parent, name) for name in inside}
        folders[:] = [
            name for name, path in paths.items() if path not in left_out and not is_run_file(Path(path), runs_dir)
        ]
        for name in sorted(names):
            path = os.path.join(parent, name)
            if name[0] != "." and not name.endswith(OTHER_FILES) and os.path.isfile(path):
                yield path


def _find_package(package: str) -> Path | None:
    """Folder or file of a package; None for an installed one, which the compute nodes have too."""
    spec = find_package(package)
    if spec is None:
        return None
    path = next(iter(spec.submodule_search_locations or ()), spec.origin)
    if path is None or {"site-packages", "dist-packages"} & set(Path(path).parts):
        return None
    return Path(path)
