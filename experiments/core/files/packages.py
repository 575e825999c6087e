"""Where Lathe's packages are, by which names they are imported, and where packages of the user are."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Collection, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from experiments.core.errors import InputError

PROJECT_ROOT = Path(__file__).resolve().parents[3]
"""The folder of Lathe's packages: the checkout, or `lathe` in site-packages."""
PACKAGES = ("conf", "experiments", "launchers", "modules", "sweeps")
PREFIX = __name__.removesuffix("experiments.core.files.packages")
"""What comes before the names of `PACKAGES` in this process: ``lathe.`` where Lathe is installed, nothing in a checkout."""
OWN_FOLDERS = (PROJECT_ROOT,) if PREFIX else tuple(PROJECT_ROOT / name for name in (*PACKAGES, "lathe"))
"""The folders that hold nothing but Lathe."""
IMPORT_ROOT = PROJECT_ROOT.parent if PREFIX else PROJECT_ROOT
"""The folder from which Python imports Lathe."""


def is_own_module(name: str) -> bool:
    """True if Lathe has a module or a package of this name, such as ``modules.model.mlp``."""
    return name.partition(".")[0] in PACKAGES and _exists(PROJECT_ROOT, name)


def is_user_module(name: str) -> bool:
    """True if a module has the name of one of Lathe's packages, only the user has it, and it can be imported."""
    top = name.partition(".")[0]
    return top in PACKAGES and not is_own_module(name) and any(_exists(folder, name) for folder in _folders(top))


def find_conflict(name: str) -> str | None:
    """Why a module of the user cannot be named: Lathe has one of the same name. None if there is no such module."""
    top = name.partition(".")[0]
    if not is_own_module(name):
        return None
    mine = next((folder for folder in _folders(top) if _exists(folder, name)), None)
    return None if mine is None else f"'{name}' is Lathe's module, not the one in {mine / top}; rename yours"


def public_name(name: str) -> str:
    """The name of a module of Lathe in a configuration, such as ``modules.model.mlp``, from the name in this process."""
    inner = name.removeprefix("lathe.")
    return inner if inner.partition(".")[0] in PACKAGES else name


def import_name(name: str) -> str:
    """The name by which this process imports a module that a configuration names: Lathe's, else the user's."""
    return f"{PREFIX}{name}" if is_own_module(name) else name


def find_package(name: str) -> ModuleSpec | None:
    """Find a top-level package of the user, also one that has the name of a package of Lathe."""
    top = name.partition(".")[0]
    if top in PACKAGES:
        return PathFinder.find_spec(top, [str(folder) for folder in _folders(top)])
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None


def _exists(folder: Path, name: str) -> bool:
    path = folder.joinpath(*name.split("."))
    return name.replace(".", "").isidentifier() and (path.is_dir() or path.with_name(f"{path.name}.py").is_file())


def _folders(top: str) -> list[Path]:
    """The folders from which a package of the user is imported."""
    trusting = [
        finder.folder for finder in sys.meta_path if isinstance(finder, _LocalPackageFinder) and top in finder.packages
    ]
    folders = [Path(folder or os.curdir).resolve() for folder in (*sys.path, *trusting)]
    return [folder for folder in dict.fromkeys(folders) if folder != PROJECT_ROOT]


class _LocalPackageFinder(MetaPathFinder):
    """Finds only trusted packages in the current folder. It is the last finder, so it hides no other package."""

    def __init__(self, folder: str, packages: Collection[str]) -> None:
        self.folder, self.packages = folder, frozenset(packages)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top, *inner = fullname.split(".")
        if top not in self.packages or (path is not None and top not in PACKAGES):
            return None
        # The other modules of a package that has the name of one of Lathe's are found here, too.
        return PathFinder.find_spec(fullname, [str(Path(self.folder, top, *inner).parent)])


def allow_local_packages(packages: Collection[str]) -> None:
    """Allow imports of trusted packages from the current folder.

    The folder itself is not added to `sys.path`: a library that looks for an optional package could import untrusted code.

    Raises:
        InputError: the current folder no longer exists.
    """
    try:
        folder = os.getcwd()
    except FileNotFoundError as err:
        raise InputError(["the current folder no longer exists; change to an existing folder"]) from err
    if packages:
        sys.meta_path.append(_LocalPackageFinder(folder, packages))


def check_own_packages() -> None:
    """Check that the names of Lathe's packages stand for them, before anything imports them.

    Raises:
        InputError: another package of the same name comes first on the import path. The command `lathe` prevents this.
    """
    for name in () if PREFIX else PACKAGES:
        spec = importlib.util.find_spec(name)
        folder = Path(spec.origin).parent if spec and spec.origin else None
        if folder is None or folder.parent.resolve() != PROJECT_ROOT:
            raise InputError(
                [
                    f"the package '{name}' is imported from {folder or 'nowhere'}, not from {PROJECT_ROOT / name}; "
                    "use the command `lathe` or `python -m lathe`, or remove the other one from PYTHONPATH"
                ]
            )
