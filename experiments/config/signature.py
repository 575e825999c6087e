"""Reads a constructor's arguments from source, without an import: the constructor is the schema of a component."""

from __future__ import annotations

import ast
import builtins
import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeGuard

from experiments.config.allowlist import MARK
from experiments.config.source_map import shown_path
from experiments.core.errors import did_you_mean
from experiments.core.files.packages import (
    PACKAGES,
    PROJECT_ROOT,
    find_conflict,
    find_package,
    is_user_module,
    public_name,
)

# `torch.nn.Module` declares `*args, **kwargs` but accepts none.
WITHOUT_ARGUMENTS = {"object", "ABC", "Protocol", "Generic", "torch.nn.Module", "torch.nn.modules.module.Module"}

MODEL_PACKAGES = ("timm", "torchvision", "transformers")
"""Packages of the extra `models`."""


class SourceError(Exception):
    """The source of a dotted path cannot be read; the message names the part that fails."""


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor, or one field of a dataclass."""

    annotation: ast.expr | None
    required: bool
    default: ast.expr | None = None


@dataclass(frozen=True)
class Signature:
    """The named arguments of a class or function."""

    target: str
    arguments: dict[str, Argument]
    is_open: bool
    """True if any argument name is accepted: `**kwargs`, a base without source, or a base that generates constructors."""
    module: Module
    """The module that declares the arguments, possibly a base's."""
    defined_in: str
    """Name of the module that defines the class or function itself."""
    is_class: bool = True
    is_component: bool = False
    """Whether the class itself, not a base, has the mark of Lathe's components."""


@dataclass(frozen=True)
class Module:
    """One parsed source file."""

    name: str
    path: Path
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    aliases: dict[str, ast.expr] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    """Modules that a star import names."""


def read(target: str) -> Signature:
    """Signature of the class or function at a dotted path.

    Args:
        target: such as ``modules.model.mlp.Mlp``.

    Raises:
        SourceError: the module or the class does not exist, or has no Python source.
    """
    module_name, _, name = target.rpartition(".")
    if not module_name:
        raise SourceError(f"'{target}' has no module; write package.module.Class")
    if name == "from_pretrained":
        raise SourceError(
            "it reads weights where only the model is built; use model=huggingface init_from.weights=FOLDER"
        )
    return _find(target, module_name, name, hops=6)


def _find(target: str, module_name: str, name: str, hops: int) -> Signature:
    module = parse(module_name)
    if name in module.classes:
        found = _read_class(target, module, module.classes[name], hops)
        return replace(found, is_component=_is_marked(module.classes[name]))
    if name in module.functions:
        return _read_function(target, module, module.functions[name], is_class=False)
    elsewhere = [module.imports[name]] if name in module.imports else [f"{star}.{name}" for star in module.stars]
    for dotted in elsewhere if hops else ():
        parent, _, original = dotted.rpartition(".")
        try:
            return _find(target, parent, original, hops - 1)
        except SourceError:
            if name in module.imports:
                raise
    hint = find_conflict(module_name) or did_you_mean(name, module.classes, f"see {shown_path(module.path)}")
    raise SourceError(f"module '{module_name}' has no class '{name}'; {hint}")


def _is_marked(node: ast.ClassDef) -> bool:
    for item in node.body:
        match item:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=True)) if name == MARK:
                return True
    return False


def _read_class(target: str, module: Module, node: ast.ClassDef, hops: int) -> Signature:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return _read_function(target, module, item, is_class=True)
    bases = [_inherited(target, module, base, hops - 1) for base in node.bases if hops]
    # Such a base can generate constructors for its subclasses, as the configurations of transformers do.
    remakes = any(isinstance(item, ast.FunctionDef) and item.name == "__init_subclass__" for item in node.body)
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        inherited = {name: argument for base in reversed(bases) for name, argument in base.arguments.items()}
        return Signature(target, inherited | _fields(node), remakes, module, module.name)
    base_signature = next((base for base in bases if base.arguments or base.is_open), None)
    if base_signature is None:
        return Signature(target, {}, remakes, module, module.name)
    return replace(base_signature, defined_in=module.name, is_open=base_signature.is_open or remakes)


def _inherited(target: str, module: Module, base: ast.expr, hops: int) -> Signature:
    """The arguments of a base; any arguments if its source cannot be read."""
    dotted = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)
    if dotted in module.classes:
        return _read_class(target, module, module.classes[dotted], hops)
    head, _, rest = dotted.partition(".")
    full = module.imports.get(head, head) + (f".{rest}" if rest else "")
    if full in WITHOUT_ARGUMENTS or full.startswith(("typing.", "abc.", "collections.abc.")):
        return Signature(target, {}, False, module, module.name)
    parent, _, name = full.rpartition(".")
    try:
        return _find(target, parent, name, hops)
    except SourceError:
        return Signature(target, {}, True, module, module.name)


def _fields(node: ast.ClassDef) -> dict[str, Argument]:
    arguments: dict[str, Argument] = {}
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        default = item.value
        options = {keyword.arg: keyword.value for keyword in default.keywords} if _is_field(default) else {}
        if (
            "ClassVar" in ast.unparse(item.annotation)
            or ast.unparse(options.get("init", ast.Constant(True))) == "False"
        ):
            continue
        required = default is None or (_is_field(default) and not options.keys() & {"default", "default_factory"})
        arguments[item.target.id] = Argument(item.annotation, required, default)
    return arguments


def _is_field(default: ast.expr | None) -> TypeGuard[ast.Call]:
    return isinstance(default, ast.Call) and ast.unparse(default.func).split(".")[-1] == "field"


def _read_function(target: str, module: Module, node: ast.FunctionDef, is_class: bool) -> Signature:
    spec = node.args
    positional = [*spec.posonlyargs, *spec.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(spec.defaults)) + list(spec.defaults)
    pairs = list(zip(positional, defaults, strict=True))[1 if is_class else 0 :]  # without `self`
    pairs += list(zip(spec.kwonlyargs, spec.kw_defaults, strict=True))
    arguments = {arg.arg: Argument(arg.annotation, default is None, default) for arg, default in pairs}
    return Signature(target, arguments, spec.kwarg is not None, module, module.name, is_class)


def parse(module_name: str) -> Module:
    """Parse the source of a module on the import path, without importing it.

    Raises:
        SourceError: the module does not exist, or has no Python source.
    """
    module_name = public_name(module_name)
    path = _source_of(module_name)
    return _parse(module_name, path, path.stat().st_mtime_ns)


@lru_cache(maxsize=512)
def _parse(module_name: str, path: Path, modified_ns: int) -> Module:
    """Parse one version of a file: in a notebook, a class is edited and then composed again."""
    module = Module(module_name, path)
    package = module_name if path.name == "__init__.py" else module_name.rpartition(".")[0]
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
    except SyntaxError as err:
        raise SourceError(f"{shown_path(path)}:{err.lineno} is not valid Python: {err.msg}") from err
    except (OSError, ValueError) as err:
        raise SourceError(f"{shown_path(path)} cannot be read: {err}") from err
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
            top = name.name.partition(".")[0]
            module.imports[name.asname or top] = public_name(name.name) if name.asname else top
    elif isinstance(node, ast.ImportFrom):
        parts = package.split(".")
        base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
        origin = public_name(".".join(part for part in (base, node.module or "") if part))
        for name in node.names:
            if name.name == "*":
                module.stars.append(origin)
            module.imports[name.asname or name.name] = f"{origin}.{name.name}"
    elif isinstance(node, (ast.If, ast.Try)):
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, ast.stmt):
                _collect(inner, module, package)


def _source_of(module_name: str) -> Path:
    top, *rest = module_name.split(".")
    if top in PACKAGES and not is_user_module(module_name):
        folders: list[Path] = [PROJECT_ROOT / top]
        source: Path | None = PROJECT_ROOT / top / "__init__.py"
    else:
        folders, source = _find_top(top)
    known = top
    for part in rest:
        source, inner = _step(folders, part)
        if source is None and not inner:
            siblings = {path.stem for folder in folders for path in folder.iterdir() if path.suffix in ("", ".py")}
            raise SourceError(f"package '{known}' has no module '{part}'; {did_you_mean(part, siblings)}")
        folders, known = inner, f"{known}.{part}"
    if source is None:
        raise SourceError(f"'{module_name}' has no Python source")
    return source


def _find_top(package: str) -> tuple[list[Path], Path | None]:
    """The folders and the source file of a top-level package or module that is not Lathe's."""
    spec = find_package(package)
    if spec is None and package in MODEL_PACKAGES:
        raise SourceError(f"{package} is not installed; `pip install 'lathe-dl[models]'`")
    if spec is None:
        raise SourceError(
            f"no package '{package}' is on the import path; install it, or run the command in the folder that contains it"
        )
    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    return folders, Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


def _step(folders: list[Path], part: str) -> tuple[Path | None, list[Path]]:
    """The source file and the sub-folders of a package's module."""
    for folder in folders:
        init = folder / part / "__init__.py"
        if init.is_file():
            return init, [folder / part]
        if (folder / f"{part}.py").is_file():
            return folder / f"{part}.py", []
    namespaces = [folder / part for folder in folders if (folder / part).is_dir()]
    return None, namespaces


def has_method(spec: Signature, wanted: Collection[str]) -> bool:
    """True if a class has one of these methods, or might inherit it from a base without source; a `Protocol` has none."""
    module = parse(spec.defined_in)
    node = module.classes.get(spec.target.rpartition(".")[2])
    if node is not None and any(ast.unparse(base).startswith("Protocol") for base in node.bases):
        return False
    return node is None or _has(wanted, node, module, hops=6)


def _has(wanted: Collection[str], node: ast.ClassDef, module: Module, hops: int) -> bool:
    names = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    names |= {ast.unparse(target) for item in node.body if isinstance(item, ast.Assign) for target in item.targets}
    if names & {*wanted, "__getattr__"}:
        return True
    for base in node.bases:
        dotted = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)
        if dotted in module.classes:
            if hops and _has(wanted, module.classes[dotted], module, hops - 1):
                return True
            continue
        head, _, rest = dotted.partition(".")
        full = module.imports.get(head, head) + (f".{rest}" if rest else "")
        if full not in WITHOUT_ARGUMENTS and not full.startswith("typing."):
            return _has_elsewhere(wanted, full, hops)
    return False


def _has_elsewhere(wanted: Collection[str], full: str, hops: int) -> bool:
    try:
        module = parse(full.rpartition(".")[0])
    except SourceError:
        return full not in dir(builtins)
    node = module.classes.get(full.rpartition(".")[2])
    return node is None or not hops or _has(wanted, node, module, hops - 1)


def read_literal(target: str, name: str) -> object:
    """The plain value of a class attribute, of the class or a base, read from the source; None if there is none."""

    def read_value(owner: str, item: ast.stmt) -> object:
        targets = (
            item.targets if isinstance(item, ast.Assign) else [item.target] if isinstance(item, ast.AnnAssign) else []
        )
        if (
            name in map(ast.unparse, targets)
            and isinstance(item, ast.Assign | ast.AnnAssign)
            and item.value is not None
        ):
            with contextlib.suppress(ValueError):
                return ast.literal_eval(item.value)
        return None

    return _find_in_class(target, read_value)


def requires_argument(target: str, method: str, argument: str) -> bool:
    """Whether a method of a class, its own or inherited, has this argument without a default, read from the source."""

    def has_default(owner: str, item: ast.stmt) -> object:
        if not isinstance(item, ast.FunctionDef) or item.name != method:
            return None
        if any(ast.unparse(each).rpartition(".")[2] == "overload" for each in item.decorator_list):
            return None
        named = [*item.args.posonlyargs, *item.args.args]
        required = named[: len(named) - len(item.args.defaults)]
        return argument not in [each.arg for each in required]

    return _find_in_class(target, has_default) is False


def find_owner(target: str, method: str) -> str | None:
    """The class that defines a method of ``target``, itself or a base, read from the source; None if none is found."""

    def name_owner(owner: str, item: ast.stmt) -> object:
        return owner if isinstance(item, ast.FunctionDef) and item.name == method else None

    found = _find_in_class(target, name_owner)
    return found if isinstance(found, str) else None


def _find_in_class(target: str, pick: Callable[[str, ast.stmt], object], hops: int = 6) -> object:
    """The first value that ``pick`` returns for a class, or a base, and one of its statements; None if there is none."""
    parent, _, own = target.rpartition(".")
    try:
        module = parse(parent)
    except (SourceError, ValueError):
        return None
    if own not in module.classes:
        return _find_in_class(module.imports[own], pick, hops - 1) if own in module.imports and hops else None
    for item in module.classes[own].body:
        value = pick(target, item)
        if value is not None:
            return value
    for base in module.classes[own].bases if hops else ():
        head, _, rest = ast.unparse(base).partition(".")
        full = f"{parent}.{head}" if head in module.classes else module.imports.get(head, head)
        value = _find_in_class(full + (f".{rest}" if rest else ""), pick, hops - 1)
        if value is not None:
            return value
    return None
