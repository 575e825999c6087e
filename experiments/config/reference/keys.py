"""What a key of the configuration means: its type, its values in the shipped options, its meaning and its class."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.config import signature
from experiments.config import type_check as check
from experiments.config.options import CONF_DIR, content
from experiments.config.reference.docstrings import argument_meanings, class_meaning, field_meanings
from experiments.config.signature import Signature, SourceError
from experiments.config.validate import PLURALS, ROOT


@dataclass(frozen=True)
class KeyReference:
    """One key of one class."""

    key: str
    type: str
    """In words, such as "a whole number or null"; "" if it is not known."""
    meaning: str
    """"" if nothing is written about it."""
    owner: str
    """Full name of the class whose argument it is."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Its value in each option that sets it, as it is written there; "default" is the value without an option."""


def find_keys(key: str, groups: Mapping[str, Mapping[str, Path]]) -> list[KeyReference]:
    """The references of a dotted key and of those below it: of a component's key one for each class that has it.

    Args:
        key: such as ``max_steps``, ``checkpoint.every_steps`` or ``optimizer.lr``.
        groups: the files of all options, by group and name.
    """
    return [
        reference for reference in _all_keys(groups, key.partition(".")[0]) if f"{reference.key}.".startswith(f"{key}.")
    ]


def known_keys(groups: Mapping[str, Mapping[str, Path]]) -> list[str]:
    """All keys of the schema and of the components in the options, in their order."""
    return list(dict.fromkeys(reference.key for reference in _all_keys(groups, None)))


def _all_keys(groups: Mapping[str, Mapping[str, Path]], first: str | None) -> Iterator[KeyReference]:
    yield from _schema_keys(signature.read(ROOT), "", content(CONF_DIR / "config.yaml"), first)
    for group, known in groups.items():
        if "/" not in group and first in (None, group) and group != "experiment":
            yield from component_keys(group, {name: content(path) for name, path in known.items()})


def _schema_keys(spec: Signature, prefix: str, values: Mapping[str, Any], first: str | None) -> Iterator[KeyReference]:
    """The keys of a class of the schema, those of the classes in it after them."""
    meanings = field_meanings(spec.module, spec.target.rpartition(".")[2])
    for name, argument in spec.arguments.items():
        key = f"{prefix}{name}"
        inner, _ = check.class_of(argument.annotation)
        if first not in (None, key.partition(".")[0]) or inner == "Part":
            continue
        default = {"default": values[name]} if name in values else {}
        kind = check.wanted(argument.annotation, spec.module) or ""
        own = signature.read(f"{spec.module.name}.{inner}") if inner in spec.module.classes else None
        meaning = meanings.get(name) or (class_meaning(own) if own is not None else "")
        yield KeyReference(key, kind, meaning, spec.target, default)
        if own is not None:
            nested = values.get(name)
            yield from _schema_keys(own, f"{key}.", nested if isinstance(nested, Mapping) else {}, first)


def component_keys(group: str, options: Mapping[str, Mapping[str, Any]]) -> Iterator[KeyReference]:
    """The keys of the components of a group, by class.

    Args:
        group: name of the group.
        options: the content of its files, by name.
    """
    by_class: dict[str, dict[str, Mapping[str, Any]]] = {}
    for option, node_or_map in options.items():
        for path, node in find_components(group, node_or_map):
            by_class.setdefault(f"{path}:{node['_target_']}", {})[option] = node
    for place, nodes in by_class.items():
        path, _, target = place.partition(":")
        try:
            spec = signature.read(target)
        except SourceError:
            continue
        meanings = argument_meanings(spec)
        for name in dict.fromkeys([*spec.arguments, *(key for node in nodes.values() for key in node)]):
            if name.startswith("_") or name == "defaults" or (group == "optimizer" and name == "params"):
                continue  # `defaults` is the list of other options, and Lathe gives an optimizer its parameters
            argument = spec.arguments.get(name)
            kind = (check.wanted(argument.annotation, spec.module) or "") if argument is not None else ""
            values = {option: node[name] for option, node in nodes.items() if name in node}
            if argument is not None and argument.default is not None:
                values = values or {"default": ast.unparse(argument.default)}
            yield KeyReference(f"{path}.{name}", kind, meanings.get(name, ""), target, values)


def find_components(group: str, option: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The components of an option with their keys: those of groups that take several have a name in between."""
    if isinstance(option.get("_target_"), str):
        yield group, option
    plural = next((plural for plural, singular in PLURALS.items() if singular == group), None)
    if plural is None:
        return
    inside: Any = option.get(plural.partition(".")[2], {}) if "." in plural else option
    for name, node in inside.items() if isinstance(inside, Mapping) else ():
        if isinstance(node, Mapping) and isinstance(node.get("_target_"), str):
            yield f"{plural}.{name}", node
