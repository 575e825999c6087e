"""Collects the code that an exported model needs: the project files that it imports, and trusted packages."""

from __future__ import annotations

import ast
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from experiments.config.allowlist import is_allowed, is_own
from experiments.core.errors import InputError
from experiments.core.files.packages import IMPORT_ROOT, PACKAGES, PREFIX, find_package, is_user_module, public_name
from experiments.core.secrets import has_secret
from experiments.tracking.model import loader
from experiments.trial.code_snapshot import MAX_SNAPSHOT_MB

LOADER = "lathe_loader"
"""The module by which MLflow loads a model."""
PREDICTOR = "experiments.tracking.model.predictor"
RAW_PREDICTOR = "experiments.tracking.model.raw_predictor"
PINNING = "from lathe.names import pin\n\npin()\n"
"""`lathe/__init__.py` in an exported model."""
REQUIRED = ("torch", "numpy", "safetensors", "pyyaml")
IMPORTED = {"torch", "numpy", "safetensors", "yaml"}
"""What these packages are called in imports."""
IGNORED = shutil.ignore_patterns(".*", "__pycache__")


@dataclass
class ModelCode:
    """The code of one model."""

    project: Path
    """Folder of the project's packages."""
    files: set[Path] = field(default_factory=set)
    """Files of the project, relative to its folder."""
    packages: dict[str, Path] = field(default_factory=dict)
    """Folders or files of trusted packages, by name."""
    needs_names: bool = False
    """Whether a file imports `lathe`."""
    requirements: list[str] = field(default_factory=lambda: [_pin(name) for name in REQUIRED])
    """Pip requirements with versions."""

    def copy(self, folder: Path) -> list[Path]:
        """Copy everything into an empty folder; return what MLflow puts on the import path.

        Raises:
            OSError: the disk is full.
        """
        root = folder / Path(loader.CODE).name
        for file in self.files:
            to = root / PREFIX.removesuffix(".") / file
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.project / file, to)
        if self.needs_names:
            (root / "lathe").mkdir(exist_ok=True)
            shutil.copyfile(IMPORT_ROOT / "lathe" / "names.py", root / "lathe" / "names.py")
            (root / "lathe" / "__init__.py").write_text(PINNING, encoding="utf-8")
        for path in self.packages.values():
            if path.is_dir():
                shutil.copytree(path, root / path.name, ignore=IGNORED)
            else:
                shutil.copyfile(path, root / path.name)
        shutil.copyfile(loader.__file__, folder / f"{LOADER}.py")
        return [folder / f"{LOADER}.py", root]


def find_targets(node: Any) -> Iterator[str]:
    """Find every `_target_` in a part of the configuration."""
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for inner in node.values():
            yield from find_targets(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from find_targets(inner)


def find_trusted_packages(node: Any) -> list[str]:
    """Find the packages in a part of the configuration that are neither the project's nor torch."""
    return sorted({target.partition(".")[0] for target in find_targets(node) if not is_own(target)})


def find_untrusted(node: Any, trust: Collection[str]) -> list[str]:
    """A problem for each package in a model's configuration that the user does not trust."""
    return [
        f"model._target_={target} is not on the list of code that may run; if you trust it, add "
        f"`--trust {target.partition('.')[0]}`"
        for target in find_targets(node)
        if not is_allowed(target, trust)
    ]


def collect_code(
    node: Mapping[str, Any], project: Path, trust: Collection[str], predictor: str = PREDICTOR
) -> ModelCode:
    """Collect the code of a model without importing it.

    Args:
        node: the configuration of the model; or of the model, its data and its evaluator by name.
        project: folder of Lathe's packages. The folder from which it is imported is searched first for trusted packages.
        trust: packages that may be copied if the model imports them.
        predictor: the module that predicts.

    Raises:
        InputError: a package cannot be found, is too large, or holds a secret.
    """
    code = ModelCode(project)
    todo = [predictor, *(target.rpartition(".")[0] for target in find_targets(node))]
    tops = {name.partition(".")[0] for name in trust} | set(find_trusted_packages(node))
    seen, others = set[str](), set[str]()
    while todo:
        imported = todo.pop()
        name = public_name(imported)
        top = name.partition(".")[0]
        code.needs_names |= imported.partition(".")[0] == "lathe"
        if name in seen:
            continue
        seen.add(name)
        if top in PACKAGES:
            todo += _add_file(code, name)
            if top in tops and not PREFIX and is_user_module(name):
                raise InputError([CONFLICT.format(name, top)])
        elif top not in sys.stdlib_module_names:
            others.add(top)
        if top in tops and top not in code.packages and (PREFIX or top not in PACKAGES):
            todo += _add_package(code, top)
    more = _make_requirements(others - tops) if others - IMPORTED else []
    code.requirements = list(dict.fromkeys([*code.requirements, *more]))
    return code


CONFLICT = (
    "the model needs your module '{}', and a package of Lathe in this checkout is also called '{}', so one folder cannot hold "
    "both; rename your package, or install Lathe with `pip install`, where its packages are below `lathe`"
)


def _add_file(code: ModelCode, name: str) -> list[str]:
    """Add a module of the project; return its imports. A name that is not a module is a class or function: skip it."""
    path = Path(*name.split("."))
    file = next(
        (each for each in (path.with_suffix(".py"), path / "__init__.py") if (code.project / each).is_file()), None
    )
    if file is None:
        return []
    code.files |= {file, *(parent / "__init__.py" for parent in file.parents if parent != Path())}
    return _find_imports((code.project / file).read_text(encoding="utf-8"))


def _add_package(code: ModelCode, top: str) -> list[str]:
    """Add a trusted package, or its requirement if it is installed; return its imports."""
    root = _find_package(top, code.project.parent if PREFIX else code.project)
    if {"site-packages", "dist-packages"} & set(root.parts):
        code.requirements += _make_requirements({top})
        return []
    code.packages[top] = root
    files = (
        [path for path in root.rglob("*") if path.is_file() and _is_included(path, root)] if root.is_dir() else [root]
    )
    num_bytes = sum(path.stat().st_size for path in files)
    if num_bytes > MAX_SNAPSHOT_MB * 1e6:
        raise InputError(
            [
                f"the package '{top}' in {root} has {num_bytes / 1e6:.0f} MB, more than the limit of {MAX_SNAPSHOT_MB:.0f} MB "
                "for the code of a model; move data out of it, or install it"
            ]
        )
    problems = [
        f"{path} seems to hold a secret, and the package '{top}' is exported with the model; move the secret out of the package"
        for path in files
        if has_secret(path.read_bytes().decode("utf-8", errors="ignore"))
    ]
    if problems:
        raise InputError(problems)
    sources = [path for path in files if path.suffix == ".py"]
    imported = [name for path in sources for name in _find_imports(path.read_text(encoding="utf-8"))]
    code.requirements += _make_requirements({name.partition(".")[0] for name in imported} - {top})
    return imported


def _is_included(path: Path, root: Path) -> bool:
    return not any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(root).parts)


def _find_package(top: str, project: Path) -> Path:
    for own in (project / top, project / f"{top}.py"):
        if own.exists():
            return own
    try:  # also in the current folder, which may not be on the import path
        spec = find_package(top) or PathFinder.find_spec(top, [str(Path.cwd())])
    except OSError:
        spec = None
    path = next(iter(spec.submodule_search_locations or ()), spec.origin) if spec else None
    if path is None:
        raise InputError(
            [f"the package '{top}' of the model cannot be found; change to the folder that contains it, or install it"]
        )
    return Path(path)


def _find_imports(source: str) -> list[str]:
    """Find the full names of all imports in a file; of ``from a import b`` both ``a`` and ``a.b``."""
    imports: list[str] = []
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a file for another Python version, which the model does not import
        return []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            imports += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return imports


def _make_requirements(tops: set[str]) -> list[str]:
    """Make the requirements for these packages, without those in `REQUIRED`."""
    known = packages_distributions()
    own = {"lathe"} if PREFIX else {"lathe", *PACKAGES}
    names = {name.lower() for top in tops - own for name in known.get(top, ())}
    return [_pin(name) for name in sorted(names - {*REQUIRED})]


def _pin(name: str) -> str:
    """Pin a package to the installed version, without the local build after a plus."""
    return f"{name}=={version(name).partition('+')[0]}"
