"""Pins the names of Lathe's packages, so that a package of yours may have the same name.

In a checkout, Lathe's packages have the top-level names `conf`, `experiments`, `launchers`, `modules` and `sweeps`. `pin` makes
Python import Lathe's packages by these names, whatever PYTHONPATH says. A module that only your package of that name has, such
as `modules.mine`, is found in yours.

The installed package has all of them below `lathe`, so the top-level names are yours. A module that only Lathe has, such as
`modules.data.base`, is found in Lathe's package. The name `lathe.modules.data.base` is valid in both.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

PACKAGES = ("conf", "experiments", "launchers", "modules", "sweeps")
HERE = Path(__file__).parent.resolve()
PREFIX = "lathe." if (HERE / "experiments").is_dir() else ""
"""What comes before the names of `PACKAGES`: nothing in a checkout."""
ROOT = HERE if PREFIX else HERE.parent
"""The folder of `PACKAGES`."""


def pin() -> None:
    """Make Python import Lathe's packages by their names in this process. A second call does nothing.

    Raises:
        ImportError: a module of yours was imported before, and has the name of one of Lathe's.
    """
    if any(isinstance(finder, _AliasFinder) for finder in sys.meta_path):
        return
    if PREFIX:
        sys.meta_path += [_InstalledFinder()]
    else:
        _refuse_conflicts()
        for name in PACKAGES:
            if (ROOT / name).is_dir():  # an exported model has only some of them
                _pin_package(name)
        sys.meta_path += [_UserModuleFinder()]
    sys.meta_path.insert(0, _AliasFinder())


def _pin_package(name: str) -> None:
    """Make a name stand for Lathe's package, also where a package of the user was imported by that name before."""
    folder = str(ROOT / name)
    package = sys.modules.get(name)
    if package is None:
        spec = importlib.util.spec_from_file_location(name, ROOT / name / "__init__.py")
        assert spec is not None  # the files are empty, so there is nothing to execute
        sys.modules[name] = importlib.util.module_from_spec(spec)
    elif folder not in (path := list(getattr(package, "__path__", ()))):
        package.__path__ = [folder, *path]


def _refuse_conflicts() -> None:
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if "." in name and _is_own(name) and file and not _is_inside([file]):
            raise ImportError(
                f"the module '{name}' was imported from {file}, and Lathe has a module of the same name in {_path(name)}; "
                f"a name stands for one module, so rename yours, or install Lathe with `pip install {ROOT}` into another "
                "environment, where all its modules are below `lathe`"
            )


def _path(name: str) -> Path:
    """The file or folder of a module of Lathe, by its name in a checkout."""
    path = ROOT.joinpath(*name.split("."))
    return path if path.is_dir() else path.with_suffix(".py")


def _is_own(name: str) -> bool:
    return name.partition(".")[0] in PACKAGES and _path(name).exists()


def _is_inside(paths: Sequence[str]) -> bool:
    """Whether one of the paths lies in this copy of Lathe; an exported model brings its own."""
    own = (HERE, *(ROOT / name for name in PACKAGES))
    return any(Path(path).resolve().is_relative_to(folder) for path in paths for folder in own)


class _Alias(Loader):
    """Gives a module a second name."""

    def __init__(self, real_name: str) -> None:
        self.real_name = real_name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.real_name)
        self.real_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.real_spec  # the import system has set that of the second name


class _AliasFinder(MetaPathFinder):
    """The first finder, so that no module of Lathe is loaded twice: `lathe.modules.x` and `modules.x` are one module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        name = fullname if PREFIX else fullname.removeprefix("lathe.")
        if (name == fullname) != bool(PREFIX) or not _is_own(name) or path is None or not _is_inside(path):
            return None
        return ModuleSpec(fullname, _Alias(f"{PREFIX}{name}"))


class _InstalledFinder(MetaPathFinder):
    """The last finder of an installed Lathe: `modules.x` is Lathe's where no other package has it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not _is_own(fullname):
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:  # such as that of trusted packages
            if (spec := finder.find_spec(fullname, path, target)) is not None:
                return spec
        return ModuleSpec(fullname, _Alias(f"{PREFIX}{fullname}"))


class _UserModuleFinder(MetaPathFinder):
    """The last finder of a checkout: `modules.x` is the user's where Lathe has no such module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top, *inner = fullname.split(".")[:-1] or [""]
        if top not in PACKAGES or path is None or not _is_inside(path):
            return None
        return PathFinder.find_spec(fullname, [str(Path(folder, top, *inner)) for folder in sys.path])
