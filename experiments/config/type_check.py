"""Checks a plain value against a type annotation that was read from source."""

from __future__ import annotations

import ast
import contextlib
from typing import Any

from experiments.config.allowlist import INNER_GROUPS, find_groups, is_own
from experiments.config.signature import Module, Signature, SourceError, parse
from experiments.core.files.field_types import MAX_INT
from experiments.core.format import Unknown

SCALARS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "None": "null"}
SEVERAL = {"int": "whole numbers", "float": "numbers", "bool": "true or false", "str": "texts"}
EXAMPLES = {"int": "10", "float": "0.1", "bool": "true", "str": "word"}
LISTS = {"list", "List", "Sequence", "Iterable", "Collection"}
MAPS = {"dict", "Dict", "Mapping"}

TORCH_LOSSES = "torch.nn.modules.loss"
"""The module whose tensors, weights of classes, are written as lists."""
NUMBERS = ast.parse("list[float]", mode="eval").body

TORCH_BASES = {
    "torch.nn.Module": frozenset({"model"}),
    "torch.nn.modules.module.Module": frozenset({"model"}),
    "torch.optim.Optimizer": frozenset({"optimizer"}),
    "torch.optim.optimizer.Optimizer": frozenset({"optimizer"}),
}
"""The groups of components that an argument with such an annotation takes."""

UNKNOWN = Unknown()
"""Replaces a value whose error is already reported; it matches every type."""


def is_reference(value: Any) -> bool:
    """True for a reference to an environment variable of the machine that runs the trial."""
    return isinstance(value, str) and "${oc.env:" in value


def mismatch(value: Any, annotation: ast.expr | None, module: Module) -> str | None:
    """The expected type as text if ``value`` does not match, else None.

    Annotations without plain values (a `Tensor`, a `Callable`) accept any component (`_target_`), and any value if the
    union has no other member.
    """
    members = members_of(annotation, module)
    wants = [_wanted(member, value, module) for member in members]
    if value is UNKNOWN or None in wants or not members:
        return None
    known = [want for want in wants if want]
    if not known or (isinstance(value, dict) and "_target_" in value and "" in wants):
        return None
    return " or ".join(dict.fromkeys(known))


def wanted(annotation: ast.expr | None, module: Module) -> str | None:
    """The type of an annotation as text, or None if it has no plain values."""
    return mismatch(object(), annotation, module)


def example(annotation: ast.expr | None, module: Module) -> str:
    """The text of a valid value; "..." if none is known."""
    for member in members_of(annotation, module):
        name, items = name_of(member), items_of(member) if isinstance(member, ast.Subscript) else []
        if name in EXAMPLES:
            return EXAMPLES[name]
        if name == "Literal":
            return str(ast.literal_eval(items[0]))
        if name in LISTS | {"tuple", "Tuple"} and items:
            items = items[:1] if name in LISTS or is_endless(items) else items
            return f"[{', '.join(example(item, module) for item in items)}]"
        if name in MAPS:
            return "{key: value}"
    return "null" if "None" in map(name_of, members_of(annotation, module)) else "..."


def inner_of_map(annotation: ast.expr | None, module: Module) -> ast.expr | None:
    """The annotation of a map's values."""
    for member in members_of(annotation, module):
        if name_of(member) in MAPS and isinstance(member, ast.Subscript) and len(items_of(member)) == 2:
            return items_of(member)[1]
    return None


def canonical(value: Any, annotation: ast.expr | None, module: Module) -> Any:
    """The canonical form of a value: an int becomes a float if the type is float, so that equal trials have one id."""
    for member in members_of(annotation, module):
        items = items_of(member) if isinstance(member, ast.Subscript) else []
        if isinstance(value, list) and name_of(member) in LISTS | {"tuple", "Tuple"} and items:
            spread = items if len(items) == len(value) and not is_endless(items) else items[:1] * len(value)
            return [canonical(item, inner, module) for item, inner in zip(value, spread, strict=True)]
    names = {name_of(member) for member in members_of(annotation, module)}
    is_float = "float" in names and "int" not in names
    return float(value) if type(value) is int and is_float and abs(value) <= MAX_INT else value


def wanted_groups(spec: Signature, name: str) -> frozenset[str]:
    """The groups of Lathe's and torch's components that an argument of a class takes.

    Args:
        spec: of the class. An argument of a user's class without an annotation that names a group takes all of them.
        name: of the argument.
    """
    argument = spec.arguments.get(name)
    named = component_groups(argument.annotation, spec.module) if argument is not None else frozenset()
    return named or (frozenset() if is_own(spec.target) else INNER_GROUPS)


def component_groups(annotation: ast.expr | None, module: Module, depth: int = 8) -> frozenset[str]:
    """The groups of the components that an argument takes, by the classes that its annotation names."""
    groups = frozenset[str]()
    for node in ast.walk(annotation) if annotation is not None and depth else ():
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            with contextlib.suppress(SyntaxError, ValueError):  # an option of `Literal`
                groups |= component_groups(ast.parse(node.value, mode="eval").body, module, depth - 1)
        elif isinstance(node, ast.Name) and node.id in module.aliases:
            groups |= component_groups(module.aliases[node.id], module, depth - 1)
        elif isinstance(node, (ast.Name, ast.Attribute)):
            head, _, rest = ast.unparse(node).partition(".")
            full = module.imports.get(head, head) + (f".{rest}" if rest else "")
            groups |= TORCH_BASES.get(full, find_groups(full) & INNER_GROUPS)
    return groups


def class_of(annotation: ast.expr | None) -> tuple[str, bool]:
    """The class of a schema field ("" if it is not a single class), and whether the field may be null."""
    optional = isinstance(annotation, ast.BinOp) and ast.unparse(annotation.right) == "None"
    named = annotation.left if optional and isinstance(annotation, ast.BinOp) else annotation
    return (named.id if isinstance(named, ast.Name) else ""), optional


def item_class(annotation: ast.expr | None, module: Module) -> ast.expr | None:
    """The schema class, or `Part`, in a `list[Class]` or `dict[str, Class]`."""
    if not isinstance(annotation, ast.Subscript):
        return None
    item = annotation.slice.elts[-1] if isinstance(annotation.slice, ast.Tuple) else annotation.slice
    return item if isinstance(item, ast.Name) and (item.id in module.classes or item.id == "Part") else None


def choices(annotation: ast.expr | None, module: Module) -> list[str]:
    """The values of a `Literal` annotation, for completion and help."""
    options: list[str] = []
    for member in members_of(annotation, module):
        if name_of(member) == "Literal" and isinstance(member, ast.Subscript):
            options += [str(ast.literal_eval(item)) for item in items_of(member)]
        elif name_of(member) == "bool":
            options += ["true", "false"]
    return options


def kind(value: Any) -> str:
    """How a message names a value that YAML parsed."""
    return str(value).lower() if isinstance(value, bool) else f"the number {value}"


def members_of(annotation: ast.expr | None, module: Module, depth: int = 8) -> list[ast.expr]:
    """The members of a union, with aliases resolved."""
    if annotation is None or depth == 0:
        return []
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return members_of(ast.parse(annotation.value, mode="eval").body, module, depth - 1)
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return members_of(annotation.left, module, depth - 1) + members_of(annotation.right, module, depth - 1)
    if isinstance(annotation, ast.Subscript) and name_of(annotation) in ("Optional", "Union"):
        members = [m for item in items_of(annotation) for m in members_of(item, module, depth - 1)]
        return [*members, ast.Constant(None)] if name_of(annotation) == "Optional" else members
    if isinstance(annotation, ast.Subscript) and name_of(annotation) in ("Annotated", "Final"):
        return members_of(items_of(annotation)[0], module, depth - 1)
    if isinstance(annotation, ast.Name) and annotation.id in module.aliases:
        return members_of(module.aliases[annotation.id], module, depth - 1)
    # Not torch's aliases: the parameters of an optimizer come from Python code.
    if isinstance(annotation, ast.Name) and not module.imports.get(annotation.id, "torch.").startswith("torch."):
        return _imported_members(annotation, module, depth)
    return [annotation]


def _imported_members(annotation: ast.Name, module: Module, depth: int) -> list[ast.expr]:
    """The same for an alias from another file."""
    home, _, name = module.imports[annotation.id].rpartition(".")
    try:
        definition = parse(home)
    except SourceError:  # a package without source: the type has no plain values
        return [annotation]
    return members_of(definition.aliases[name], definition, depth - 1) if name in definition.aliases else [annotation]


def _wanted(member: ast.expr, value: Any, module: Module) -> str | None:
    """None if the value matches, "" if the member has no plain values, else its type as text."""
    name = name_of(member)
    if name in SCALARS:
        return None if _is_scalar(name, value) else SCALARS[name]
    if name == "Literal" and isinstance(member, ast.Subscript):
        allowed = [ast.literal_eval(item) for item in items_of(member)]
        return None if value in allowed and type(value) in map(type, allowed) else "one of " + _listed(allowed)
    if name == "Tensor" and module.name == TORCH_LOSSES:
        return _wanted_list(NUMBERS, value, module)
    if name in LISTS:
        return _wanted_list(member, value, module)
    if name in ("tuple", "Tuple"):
        return _wanted_tuple(member, value, module)
    if name in MAPS:
        return _wanted_map(member, value, module)
    return None if name in ("Any", "object") else ""


def _is_scalar(name: str, value: Any) -> bool:
    if name == "None":
        return value is None
    if name == "bool":
        return isinstance(value, bool)
    if name == "str":
        return isinstance(value, str)
    numeric = (int,) if name == "int" else (int, float)
    return isinstance(value, numeric) and not isinstance(value, bool)


def _wanted_list(member: ast.expr, value: Any, module: Module) -> str | None:
    items = items_of(member) if isinstance(member, ast.Subscript) else []
    inner = items[0] if items else None
    if isinstance(value, list) and all(mismatch(item, inner, module) is None for item in value):
        return None
    several = SEVERAL.get(name_of(inner), "") if inner is not None else ""
    return f"a list of {several}" if several else "a list"


def _wanted_tuple(member: ast.expr, value: Any, module: Module) -> str | None:
    items = items_of(member) if isinstance(member, ast.Subscript) else []
    if not items or is_endless(items):
        return _wanted_list(ast.Subscript(ast.Name("list"), items[0]) if items else member, value, module)
    fits = isinstance(value, list) and len(value) == len(items)
    if fits and all(mismatch(v, inner, module) is None for v, inner in zip(value, items, strict=True)):
        return None
    return f"a list of {len(items)} ({', '.join(wanted(item, module) or 'anything' for item in items)})"


def _wanted_map(member: ast.expr, value: Any, module: Module) -> str | None:
    inner = inner_of_map(member, module)
    if not isinstance(value, dict):
        return "a map"
    wants = [want for item in value.values() if (want := mismatch(item, inner, module)) is not None]
    return f"a map to {wants[0]}" if wants else None


def is_endless(items: list[ast.expr]) -> bool:
    """True for the `...` of `tuple[int, ...]`."""
    return bool(items) and isinstance(items[-1], ast.Constant) and items[-1].value is ...


def name_of(node: ast.expr) -> str:
    """The name of a type, without its items: ``list`` of ``list[int]``."""
    if isinstance(node, ast.Subscript):
        return name_of(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Constant) and node.value is None:
        return "None"
    return node.id if isinstance(node, ast.Name) else ""


def items_of(node: ast.expr) -> list[ast.expr]:
    """The types in the brackets of a type."""
    if not isinstance(node, ast.Subscript):
        return []
    return list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]


def _listed(values: list[Any]) -> str:
    return ", ".join(str(value) for value in values)
