"""Reads what a key means from source: the docstring below a field of the schema, or the arguments in a class's docstring."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from itertools import pairwise

from experiments.config.signature import Module, Signature, parse

_SECTION = re.compile(r"^(\w[\w ]*):\s*$")
_ARGUMENT = re.compile(r"^(?P<names>\*{0,2}\w+(?:, *\w+)*)\s*(?:\([^)]*\))?: *(?P<text>.*)$")
_ARGUMENTS = ("Args", "Arguments", "Parameters", "Attributes")


def field_meanings(module: Module, class_name: str) -> dict[str, str]:
    """The docstrings below the fields of a class, by field."""
    meanings: dict[str, str] = {}
    body = module.classes[class_name].body
    for item, following in pairwise(body):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and (text := _text(following)):
            meanings[item.target.id] = _in_one_line(text)
    return meanings


def argument_meanings(spec: Signature) -> dict[str, str]:
    """What the docstrings of a class and of its constructor say of each argument."""
    meanings: dict[str, str] = {}
    for docstring in _docstrings(spec):
        for names, text in _arguments(inspect.cleandoc(docstring)):
            meanings |= {name: text for name in names if name not in meanings}
    return meanings


def class_meaning(spec: Signature) -> str:
    """The first paragraph of the docstring of a class; "" without one."""
    name = spec.target.rpartition(".")[2]
    node = parse(spec.defined_in).classes.get(name)
    docstring = ast.get_docstring(node) if node is not None else None
    return _in_one_line((docstring or "").split("\n\n")[0])


def _docstrings(spec: Signature) -> Iterator[str]:
    """The docstrings of the class and of those bases that are in the same file as its constructor."""
    name = spec.target.rpartition(".")[2]
    for module in {spec.module.name: spec.module, spec.defined_in: parse(spec.defined_in)}.values():
        for node in (
            module.classes.values() if name not in module.classes else [module.classes[name], *_bases(module, name)]
        ):
            for each in (node, *node.body):
                if isinstance(each, ast.ClassDef) or (isinstance(each, ast.FunctionDef) and each.name == "__init__"):
                    yield ast.get_docstring(each) or ""
            yield from _assigned(module, node.name)


def _bases(module: Module, name: str) -> list[ast.ClassDef]:
    bases = [ast.unparse(base) for base in module.classes[name].bases]
    return [module.classes[base] for base in bases if base in module.classes]


def _assigned(module: Module, class_name: str) -> Iterator[str]:
    """A docstring that is assigned to a class, as torch does; of an f-string its fixed parts."""
    for node in ast.parse(module.path.read_text(encoding="utf-8")).body if module.path.is_file() else ():
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == f"{class_name}.__doc__":
            parts = (each.value for each in ast.walk(node.value) if isinstance(each, ast.Constant))
            yield "".join(part for part in parts if isinstance(part, str))


def _arguments(docstring: str) -> Iterator[tuple[list[str], str]]:
    """The entries of the sections for arguments, with their continuation lines."""
    lines = docstring.splitlines()
    is_inside, indent = False, None
    names, texts = list[str](), list[str]()
    for line in [*lines, "End:"]:
        section = _SECTION.match(line)
        entry = _ARGUMENT.match(line.strip()) if is_inside and line.strip() else None
        depth = len(line) - len(line.lstrip())
        if entry is not None and indent is None:
            indent = depth
        begins = section is not None or (entry is not None and depth == indent)
        if names and (begins or (line.strip() and depth == 0)):
            yield names, _in_one_line(" ".join(texts))
            names, texts = [], []
        if section is not None:
            is_inside, indent = section[1] in _ARGUMENTS, None
        elif entry is not None and depth == indent:
            names, texts = [name.strip(" *") for name in entry["names"].split(",")], [entry["text"]]
        elif names:
            texts.append(line.strip())


def _text(node: ast.stmt) -> str:
    match node:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return text
    return ""


def _in_one_line(text: str) -> str:
    return " ".join(text.split())
