"""The code that a model needs to be loaded anywhere: the house's files that it imports, and the packages one trusts."""

from __future__ import annotations

import ast
import importlib.util
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from experiments.config.allowlist import is_own
from experiments.core.errors import InputError
from experiments.core.secrets import has_secret
from experiments.tracking.model import loader
from experiments.trial.code_snapshot import MAX_SNAPSHOT_MB, PACKAGES

LOADER = "lathe_loader"
"""Module that MLflow is told to load a model by."""
PREDICTOR = "experiments.tracking.model.predictor"
REQUIRED = ("torch", "numpy", "safetensors", "pyyaml")
IGNORED = shutil.ignore_patterns(".*", "__pycache__")


@dataclass
class ModelCode:
    """What is found for one model."""

    house: Path
    """Folder of the house's packages."""
    files: set[Path] = field(default_factory=set)
    """Of the house, relative to it."""
    packages: dict[str, Path] = field(default_factory=dict)
    """Folders or files of trusted packages, by name."""
    requirements: list[str] = field(default_factory=lambda: [_pin(name) for name in REQUIRED])
    """What has to be installed, each with its version."""

    def copy(self, folder: Path) -> list[Path]:
        """Copy everything into an empty folder; what MLflow is to put on the import path.

        Raises:
            OSError: the disk is full.
        """
        root = folder / Path(loader.CODE).name
        for file in self.files:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.house / file, root / file)
        for place in self.packages.values():
            if place.is_dir():
                shutil.copytree(place, root / place.name, ignore=IGNORED)
            else:
                shutil.copyfile(place, root / place.name)
        shutil.copyfile(loader.__file__, folder / f"{LOADER}.py")
        return [folder / f"{LOADER}.py", root]


def find_targets(node: Any) -> Iterator[str]:
    """Every `_target_` of a part of the configuration."""
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for inner in node.values():
            yield from find_targets(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from find_targets(inner)


def find_trusted_packages(node: Any) -> list[str]:
    """The packages beyond the house's and torch's that a part of the configuration names."""
    return sorted({target.partition(".")[0] for target in find_targets(node) if not is_own(target)})


def collect_code(node: Mapping[str, Any], house: Path, trust: Collection[str]) -> ModelCode:
    """Find the code of a model; nothing of it is imported.

    Args:
        node: the model's part of the configuration.
        house: folder of the house's packages; trusted ones are looked for there first.
        trust: packages that may be copied where the model's own import them.

    Raises:
        InputError: a package cannot be found, is too large, or holds a secret.
    """
    found = ModelCode(house)
    todo = [PREDICTOR, *(target.rpartition(".")[0] for target in find_targets(node))]
    tops = {name.partition(".")[0] for name in trust} | set(find_trusted_packages(node))
    seen = set[str]()
    while todo:
        name = todo.pop()
        top = name.partition(".")[0]
        if name in seen:
            continue
        seen.add(name)
        if top in PACKAGES:
            todo += _add_file(found, name)
        elif top in tops and top not in found.packages:
            todo += _add_package(found, top)
    return found


def _add_file(found: ModelCode, name: str) -> list[str]:
    """Add a module of the house, and say what it imports; a name that is none is a class or function in one."""
    path = Path(*name.split("."))
    own = next(
        (each for each in (path.with_suffix(".py"), path / "__init__.py") if (found.house / each).is_file()), None
    )
    if own is None:
        return []
    found.files |= {own, *(parent / "__init__.py" for parent in own.parents if parent != Path())}
    return _find_imports((found.house / own).read_text(encoding="utf-8"))


def _add_package(found: ModelCode, top: str) -> list[str]:
    """Add a trusted package, or what it is installed from, and say what it imports."""
    place = _find_package(top, found.house)
    if {"site-packages", "dist-packages"} & set(place.parts):
        found.requirements += _make_requirements({top})
        return []
    found.packages[top] = place
    files = (
        [path for path in place.rglob("*") if path.is_file() and _is_included(path, place)]
        if place.is_dir()
        else [place]
    )
    num_bytes = sum(path.stat().st_size for path in files)
    if num_bytes > MAX_SNAPSHOT_MB * 1e6:
        raise InputError(
            [
                f"the package '{top}' in {place} has {num_bytes / 1e6:.0f} MB, more than the {MAX_SNAPSHOT_MB:.0f} MB of code "
                "that go along with a model; keep data out of it, or install it"
            ]
        )
    problems = [
        f"{path} looks as if it held a secret, and the package '{top}' goes along with the model; keep it out of there"
        for path in files
        if has_secret(path.read_bytes().decode("utf-8", errors="ignore"))
    ]
    if problems:
        raise InputError(problems)
    sources = [path for path in files if path.suffix == ".py"]
    imported = [name for path in sources for name in _find_imports(path.read_text(encoding="utf-8"))]
    found.requirements += _make_requirements({name.partition(".")[0] for name in imported} - {top})
    return imported


def _is_included(path: Path, place: Path) -> bool:
    return not any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(place).parts)


def _find_package(top: str, house: Path) -> Path:
    for own in (house / top, house / f"{top}.py"):
        if own.exists():
            return own
    try:  # of a folder that trust was given in, the process that brings runs to a store has not been told
        spec = importlib.util.find_spec(top) or PathFinder.find_spec(top, [str(Path.cwd())])
    except (ImportError, ValueError, OSError):
        spec = None
    place = next(iter(spec.submodule_search_locations or ()), spec.origin) if spec else None
    if place is None:
        raise InputError(
            [f"the package '{top}' of the model cannot be found; go to the folder that it lies in, or install it"]
        )
    return Path(place)


def _find_imports(source: str) -> list[str]:
    """Full names of all that a file imports anywhere; of ``from a import b`` both ``a`` and ``a.b``."""
    found: list[str] = []
    try:
        tree = ast.parse(source)
    except SyntaxError:  # of another Python, in a package that has it lie about; what the model imports is none
        return []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def _make_requirements(tops: Collection[str]) -> list[str]:
    """What has to be installed for these packages to be there, those that `REQUIRED` has aside."""
    known = packages_distributions()
    names = {name.lower() for top in tops if top not in PACKAGES for name in known.get(top, ())}
    return [_pin(name) for name in sorted(names - {*REQUIRED})]


def _pin(name: str) -> str:
    """A requirement of the version that is installed here; what follows a plus is this build's alone."""
    return f"{name}=={version(name).partition('+')[0]}"
