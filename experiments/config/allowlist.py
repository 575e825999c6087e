"""The allow-list of `_target_`: which code a configuration may run.

Without trust, a configuration may name Lathe's components (the classes of `modules` and of `PLACES` with the mark
`is_component = True`) and the classes of a short list of torch modules, each only where its group is wanted. With
`--trust PACKAGE` it may also name the classes and functions of that package, anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import yaml

from experiments.core.errors import InputError
from experiments.core.files.packages import find_conflict, find_package, is_own_module, is_user_module, public_name
from experiments.core.files.paths import user_path

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
    "_adafactor", "adadelta", "adagrad", "adam", "adamax", "adamw", "asgd", "lbfgs", "nadam", "radam", "rmsprop", "rprop", "sgd",
    "sparse_adam",
)  # fmt: skip
TORCH = {
    **{f"torch.optim.{name}.": frozenset({"optimizer"}) for name in OPTIMIZERS},
    "torch.nn.modules.activation.": frozenset({"model"}),
    "torch.nn.modules.loss.": frozenset({"model", "objective"}),
}
"""The groups that the classes of a torch module can serve."""
UNFIT = {
    "torch.nn.modules.adaptive.": "has weights of its own; make it a part of your model",
    "torch.optim._muon.": "trains only matrices, but a model has vectors such as biases; name another optimizer",
    "torch.optim.lr_scheduler.": "counts steps itself, but a schedule here is a function of the step; choose one that "
    "`lathe options schedule` lists",
    "torch.optim.optimizer.": "is only a base; name an optimizer such as torch.optim.AdamW",
}
"""Why classes of other torch modules, which users name, cannot serve."""
INNER_GROUPS = frozenset(
    {
        "adapter",
        "callback",
        "data",
        "evaluator",
        "gradient",
        "model",
        "objective",
        "optimizer",
        "parallel",
        "schedule",
        "task",
    }
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
        elif (spec := find_package(name)) is not None:
            folders += [Path(folder) for folder in spec.submodule_search_locations or ()]
    return folders


def is_folder(name: str) -> bool:
    """True if an entry of `--trust` is a folder and not a package: it contains a slash, or begins with ``~`` or ``.``."""
    return "/" in name or name.startswith(("~", "."))


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


def is_allowed(target: str, trust: Collection[str] = ()) -> bool:
    """True if ``target`` is in Lathe's own packages, in the short list of torch paths or in a trusted package.

    Of Lathe's own packages only the components may be named; `find_groups` says where.
    """
    return is_own(target) or is_trusted(target, trust)


def how_to_allow(target: str, trust: Collection[str]) -> str:
    """What to change so that a target which is not allowed becomes allowed."""
    package, module = target.partition(".")[0], target.rpartition(".")[0]
    if reason := next((reason for prefix, reason in UNFIT.items() if target.startswith(prefix)), None):
        return f"the class {reason}"
    if public_name(target) != target:
        return f"write {public_name(target)}"
    conflict = find_conflict(module) if package in trust else None
    return conflict or f"if you trust the code of '{package}', add `--trust {package}`"


def is_trusted(target: str, trust: Collection[str]) -> bool:
    """True if the user trusts the package of ``target``. A module that Lathe has too is Lathe's."""
    is_named = target.startswith(tuple(f"{package}." for package in trust))
    return is_named and not is_own_module(target.rpartition(".")[0])


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
    return target.startswith((*OWN, *TORCH)) and not is_user_module(target.rpartition(".")[0])
