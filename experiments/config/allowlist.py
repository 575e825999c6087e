"""The allow-list of `_target_`: which code a configuration may run.

Without trust, a configuration may name Lathe's components (the classes of `modules` and of `PLACES` with the mark
`is_component = True`) and the classes of a short list of torch modules, each only where its group is wanted. With
`--trust PACKAGE` it may also name the classes and functions of that package, anywhere.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Collection, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

import yaml

from experiments.core.errors import InputError
from experiments.core.files.paths import user_path

PROJECT_ROOT = Path(__file__).resolve().parents[2]
PLACES = {
    "launchers.": "launcher",
    "experiments.tracking.trackers.": "tracking",
    "experiments.sweep.strategies.": "strategy",
    "experiments.sweep.pruners.": "pruner",
}
"""The groups of Lathe's components outside `modules`."""
OWN = ("modules.", *PLACES)
MARK = "is_component"
"""Class attribute of Lathe's components; it is not inherited."""
OPTIMIZERS = (
    "adadelta", "adagrad", "adam", "adamax", "adamw", "asgd", "lbfgs", "nadam", "radam", "rmsprop", "rprop", "sgd", "sparse_adam",
)  # fmt: skip
TORCH = {
    **{f"torch.optim.{name}.": frozenset({"optimizer"}) for name in OPTIMIZERS},
    "torch.nn.modules.activation.": frozenset({"model"}),
    "torch.nn.modules.loss.": frozenset({"model", "objective"}),
}
"""The groups that the classes of a torch module can serve."""
INNER_GROUPS = frozenset(
    {"callback", "data", "evaluator", "gradient", "model", "objective", "optimizer", "parallel", "schedule", "task"}
)
"""What a component may hold inside; the others have one place each."""
GROUPS = INNER_GROUPS | {*PLACES.values()}


def settings_file() -> Path:
    """The user's settings on this machine. They are never part of a configuration or of a shared file."""
    return user_path(os.environ.get("XDG_CONFIG_HOME") or "~/.config", "XDG_CONFIG_HOME") / "lathe" / "settings.yaml"


def trusted(trust: Collection[str] = ()) -> tuple[str, ...]:
    """The further packages that `_target_` may name: from `--trust` and from the user's settings.

    Raises:
        InputError: the settings are not a YAML map with a list of names under ``trust``.
    """
    return tuple(name for name in _with_settings(trust) if not is_folder(name))


def trusted_folders(trust: Collection[str] = ()) -> list[Path]:
    """The folders whose files the user trusts: those of `--trust DIR`, of the settings, and of trusted packages.

    Raises:
        InputError: as `trusted`.
    """
    folders: list[Path] = []
    for name in _with_settings(trust):
        if is_folder(name):
            folders.append(Path(name).expanduser())
        elif (spec := _find_spec(name)) is not None:
            folders += [Path(folder) for folder in spec.submodule_search_locations or ()]
    return folders


def is_folder(name: str) -> bool:
    """True if an entry of `--trust` is a folder and not a package: it contains a slash, or begins with ``~`` or ``.``."""
    return "/" in name or name.startswith(("~", "."))


def _find_spec(package: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(package.partition(".")[0])
    except (ImportError, ValueError):
        return None


def _with_settings(trust: Collection[str]) -> tuple[str, ...]:
    from launchers.ownership import find_foreign_owner, find_squatter  # after `check_own_packages`

    path = settings_file()
    if not path.is_file():
        return tuple(trust)
    problem = find_foreign_owner(path.resolve()) or find_squatter(path.parent.resolve())
    if problem is not None:
        raise InputError([f"{path} {problem}, and it lists the packages that you trust; remove it, or write your own"])
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise InputError(
            [f"{path} is not valid YAML: {getattr(err, 'problem', None) or err}; write `trust: [mypackage]`"]
        ) from err
    listed = settings.get("trust", []) if isinstance(settings, dict) else settings
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise InputError(
            [f"{path}: trust={listed!r} is not a list of packages and folders; write `trust: [mypackage]`"]
        )
    return tuple(dict.fromkeys([*trust, *listed]))


class _LocalPackageFinder(MetaPathFinder):
    """Finds only trusted packages in the current folder. It is the last finder, so it hides no other package."""

    def __init__(self, folder: str, packages: Collection[str]) -> None:
        self.folder, self.packages = folder, frozenset(packages)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(fullname, [self.folder]) if path is None and fullname in self.packages else None


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
    """Check that `conf`, `launchers`, `modules` and `sweeps` are Lathe's own packages, before anything imports them.

    Raises:
        InputError: another package of the same name comes first on the import path.
    """
    for name in ("conf", "launchers", "modules", "sweeps"):
        spec = importlib.util.find_spec(name)
        folder = Path(spec.origin).parent if spec and spec.origin else None
        if folder is None or folder.parent.resolve() != PROJECT_ROOT:
            raise InputError(
                [
                    f"the package '{name}' is imported from {folder or 'nowhere'}, not from {PROJECT_ROOT / name}; "
                    "remove the other one from PYTHONPATH"
                ]
            )


def is_allowed(target: str, trust: Collection[str] = ()) -> bool:
    """True if ``target`` is in Lathe's own packages, in the short list of torch paths or in a trusted package.

    Of Lathe's own packages only the components may be named; `find_groups` says where.
    """
    return is_own(target) or is_trusted(target, trust)


def is_trusted(target: str, trust: Collection[str]) -> bool:
    """True if the user trusts the package of ``target``."""
    return target.startswith(tuple(f"{package}." for package in trust))


def find_groups(target: str) -> frozenset[str]:
    """The groups that a class of Lathe or torch can serve; empty for other classes.

    A folder of `modules` has the name of its group.
    """
    if target.startswith("modules."):
        return frozenset({target.split(".")[1]})
    places = {prefix: frozenset({group}) for prefix, group in PLACES.items()} | TORCH
    return next((groups for prefix, groups in places.items() if target.startswith(prefix)), frozenset())


def is_own(target: str) -> bool:
    """True if ``target`` is part of Lathe or torch and therefore needs no `--trust`."""
    return target.startswith((*OWN, *TORCH))
