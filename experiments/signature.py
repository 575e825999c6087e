"""Reads what a class takes from its source, without importing it: its constructor is its schema."""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from experiments.faults import did_you_mean


class SourceError(Exception):
    """The source behind a dotted path cannot be read; the message says which part of it."""


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor, or one field of a dataclass."""

    annotation: ast.expr | None
    required: bool
    default: ast.expr | None = None


@dataclass(frozen=True)
class Signature:
    """What a class can be given by name."""

    target: str
    arguments: dict[str, Argument]
    is_open: bool
    """True where it takes `**kwargs`, so that no name is unknown."""
    module: Module


@dataclass(frozen=True)
class Module:
    """One parsed source file."""

    name: str
    path: Path
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    aliases: dict[str, ast.expr] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)


@lru_cache(maxsize=512)
def read(target: str) -> Signature:
    """Signature of the class or function at a dotted path.

    Args:
        target: such as ``modules.model.mlp.Mlp``.

    Raises:
        SourceError: there is no such module, no such class in it, or no Python source.
    """
    module_name, _, name = target.rpartition(".")
    if not module_name:
        raise SourceError(f"'{target}' names no module; write package.module.Class")
    return _find(target, module_name, name, hops=6)


def _find(target: str, module_name: str, name: str, hops: int) -> Signature:
    module = parse(module_name)
    if name in module.classes:
        return _of_class(target, module, module.classes[name], hops)
    if name in module.functions:
        return _of_function(target, module, module.functions[name], skip_first=False)
    if name in module.imports and hops:
        parent, _, original = module.imports[name].rpartition(".")
        return _find(target, parent, original, hops - 1)
    way_out = did_you_mean(name, [*module.classes, *module.functions], otherwise=f"see {module.path}")
    raise SourceError(f"module '{module_name}' has no class '{name}'; {way_out}")


def _of_class(target: str, module: Module, node: ast.ClassDef, hops: int) -> Signature:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return _of_function(target, module, item, skip_first=True)
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return Signature(target, _fields(node), False, module)
    for base in node.bases:
        dotted = ast.unparse(base)
        if hops and dotted not in ("object", "ABC", "Protocol"):
            try:
                return _inherited(target, module, dotted, hops - 1)
            except SourceError:
                continue
    return Signature(target, {}, False, module)


def _inherited(target: str, module: Module, base: str, hops: int) -> Signature:
    if base in module.classes:
        return _of_class(target, module, module.classes[base], hops)
    head, _, rest = base.partition(".")
    dotted = module.imports.get(head, head) + (f".{rest}" if rest else "")
    parent, _, name = dotted.rpartition(".")
    if not parent:
        raise SourceError(f"'{base}' is not imported by {module.path}")
    return _find(target, parent, name, hops)


def _fields(node: ast.ClassDef) -> dict[str, Argument]:
    return {
        item.target.id: Argument(item.annotation, item.value is None, item.value)
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }


def _of_function(target: str, module: Module, node: ast.FunctionDef, skip_first: bool) -> Signature:
    spec = node.args
    positional = [*spec.posonlyargs, *spec.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(spec.defaults)) + list(spec.defaults)
    pairs = list(zip(positional, defaults, strict=True))[1 if skip_first else 0 :]
    pairs += list(zip(spec.kwonlyargs, spec.kw_defaults, strict=True))
    arguments = {arg.arg: Argument(arg.annotation, default is None, default) for arg, default in pairs}
    return Signature(target, arguments, spec.kwarg is not None, module)


@lru_cache(maxsize=512)
def parse(module_name: str) -> Module:
    """Parse the source of a module that is found on the import path but not imported.

    Raises:
        SourceError: no such module, or it has no Python source.
    """
    path = _source_of(module_name)
    module = Module(module_name, path)
    package = module_name if path.name == "__init__.py" else module_name.rpartition(".")[0]
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
    except SyntaxError as err:
        raise SourceError(f"{path}:{err.lineno} is no valid Python: {err.msg}") from err
    for node in body:
        _collect(node, module, package)
    return module


def _collect(node: ast.stmt, module: Module, package: str) -> None:
    if isinstance(node, ast.ClassDef):
        module.classes[node.name] = node
    elif isinstance(node, ast.FunctionDef):
        module.functions[node.name] = node
    elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        module.aliases[node.targets[0].id] = node.value
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
        module.aliases[node.target.id] = node.value
    elif isinstance(node, ast.Import):
        for name in node.names:
            module.imports[name.asname or name.name.partition(".")[0]] = (
                name.name if name.asname else name.name.partition(".")[0]
            )
    elif isinstance(node, ast.ImportFrom):
        parts = package.split(".")
        base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
        origin = ".".join(part for part in (base, node.module or "") if part)
        for name in node.names:
            module.imports[name.asname or name.name] = f"{origin}.{name.name}"


def _source_of(module_name: str) -> Path:
    top, *rest = module_name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise SourceError(f"no package '{top}' is on the import path; install it, or start from the folder it lies in")
    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    source = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    known = top
    for part in rest:
        source, inner = _step(folders, part)
        if source is None and not inner:
            siblings = {path.stem for folder in folders for path in folder.iterdir() if path.suffix in ("", ".py")}
            raise SourceError(f"package '{known}' has no module '{part}'; {did_you_mean(part, siblings)}")
        folders, known = inner, f"{known}.{part}"
    if source is None:
        raise SourceError(f"'{module_name}' has no Python source that could be read")
    return source


def _step(folders: list[Path], part: str) -> tuple[Path | None, list[Path]]:
    """Source and sub-folders of one module of a package."""
    for folder in folders:
        if (folder / f"{part}.py").is_file():
            return folder / f"{part}.py", []
        if (folder / part).is_dir():
            init = folder / part / "__init__.py"
            return (init if init.is_file() else None), [folder / part]
    return None, []
