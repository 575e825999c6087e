"""JSON Schema of the YAML files of a configuration folder, for editors: keys, types, meanings and values."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.config import signature
from experiments.config import type_check as check
from experiments.config.options import CONF_DIR, content
from experiments.config.reference.docstrings import argument_meanings, class_meaning, field_meanings
from experiments.config.reference.keys import find_components
from experiments.config.rules.optimizer import NOT_ARGUMENTS
from experiments.config.signature import Argument, Module, Signature, SourceError
from experiments.config.validate import PLURALS, ROOT
from experiments.core.atomic import write_text

DRAFT = "https://json-schema.org/draft/2020-12/schema"
REFERENCE = {"type": "string", "pattern": r"\$\{.+\}|^\?\?\?$|^auto$"}
"""What stands for a value of any type: a reference, a value that the user must give, and a value that is found in files."""
COMPONENT = {"type": "object", "required": ["_target_"]}
SWEEP = "experiments.config.schema.SweepSchema"
SWEEP_PARTS = ("strategy", "pruner")
TYPES: Mapping[str, dict[str, Any]] = {
    "int": {"type": "integer"}, "float": {"type": "number"}, "bool": {"type": "boolean"}, "str": {"type": "string"},
    "None": {"type": "null"},
}  # fmt: skip
SEVERAL = frozenset(name.partition(".")[0] for name in PLURALS)
"""Groups whose files hold components by name."""


def write_schemas(groups: Mapping[str, Mapping[str, Path]], folder: Path) -> int:
    """Write the schemas of all files to ``GROUP.json`` in a folder, which is made; returns their number.

    Raises:
        OSError: one cannot be written.
        InputError: an option's file cannot be read.
    """
    schemas = group_schemas(groups)
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas.items():
        write_text(folder / f"{name}.json", json.dumps(schema, indent=1) + "\n")
    return len(schemas)


def group_schemas(groups: Mapping[str, Mapping[str, Path]]) -> dict[str, dict[str, Any]]:
    """The schema of the files of each group, by its name; "config" is the schema of the root, "sweep" that of a sweep.

    Args:
        groups: the files of all options, by group and name. Their classes are read from source and not imported.
    """
    own = {group: files for group, files in groups.items() if "/" not in group}
    root = _root_schema(own)
    schemas = {"config": root, "experiment": root, "sweep": _sweep_schema(own)}
    for group, files in own.items():
        if group != "experiment":
            schemas[group] = _group_schema(group, files)
    return {name: {"$schema": DRAFT, "title": f"Lathe: {name}", **schema} for name, schema in sorted(schemas.items())}


def _group_schema(group: str, files: Mapping[str, Path]) -> dict[str, Any]:
    nested = _schema_class(group)
    if group in SEVERAL:
        inner = {"type": "object", "additionalProperties": _component_schema(group, files)}
        path = next(plural for plural, singular in PLURALS.items() if singular == group).partition(".")[2]
        if nested is None:
            return {**inner, "properties": {"defaults": {"type": "array"}}}
        whole = _class_schema(nested)
        return {**whole, "properties": {**whole["properties"], path: inner}}
    return _class_schema(nested) if nested is not None else _component_schema(group, files)


def _component_schema(group: str, files: Mapping[str, Path]) -> dict[str, Any]:
    """A component: for each class that an option names its arguments; any keys of other classes."""
    targets = dict.fromkeys(
        str(node["_target_"]) for path in files.values() for _, node in find_components(group, content(path))
    )
    known = {target: spec for target in targets if (spec := _try_read(target)) is not None}
    marks = {"_target_": {"type": "string", "examples": [*known]}, "_partial_": {"type": "boolean"}}
    marks["defaults"] = {"type": "array"}
    rules = []
    for target, spec in known.items():
        properties = {**marks, **_arguments(group, spec)}
        then: dict[str, Any] = {"properties": properties, "description": class_meaning(spec)}
        if not spec.is_open:
            then["additionalProperties"] = False
        rules.append({"if": {"properties": {"_target_": {"const": target}}, "required": ["_target_"]}, "then": then})
    return {"type": "object", "properties": marks, "allOf": rules}


def _arguments(group: str, spec: Signature) -> dict[str, Any]:
    meanings = argument_meanings(spec)
    own = {
        name: _describe(_any_value(_argument_schema(argument, spec.module)), meanings.get(name, ""))
        for name, argument in spec.arguments.items()
    }
    return {**own, **({name: {} for name in NOT_ARGUMENTS} if group == "optimizer" else {})}


def _root_schema(groups: Mapping[str, Mapping[str, Path]]) -> dict[str, Any]:
    """The root, which an experiment also sets: a component there may have the keys of any class of its group."""
    spec = signature.read(ROOT)
    meanings = field_meanings(spec.module, spec.target.rpartition(".")[2])
    properties: dict[str, Any] = {"defaults": {"type": "array", "description": "the options of the groups"}}
    for name, argument in spec.arguments.items():
        inner, _ = check.class_of(argument.annotation)
        is_part = inner == "Part"
        schema = {"type": "object"} if is_part else _argument_schema(argument, spec.module)
        if is_part and name in groups:
            schema = {"type": ["object", "null"], "properties": _merged(name, groups[name])}
        properties[name] = _describe(schema if is_part else _any_value(schema), meanings.get(name, ""))
    values = content(CONF_DIR / "config.yaml")
    for name, schema in properties.items():
        if name in values and not isinstance(values[name], (dict, list)):
            schema["default"] = values[name]
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _sweep_schema(groups: Mapping[str, Mapping[str, Path]]) -> dict[str, Any]:
    """A sweep: null stands for the default of a key; a strategy and a pruner are named, or have keys."""
    whole = _class_schema(signature.read(SWEEP))
    properties = {
        name: {"anyOf": [schema, {"type": "null"}], "description": schema.get("description", "")}
        for name, schema in whole["properties"].items()
        if name != "defaults"
    }
    for part in SWEEP_PARTS:
        known = [{"enum": [*groups[part]]}, {"type": ["object", "null"]}]
        properties[part] = {"anyOf": known, "description": properties[part]["description"]}
    return {**whole, "properties": properties}


def _merged(group: str, files: Mapping[str, Path]) -> dict[str, Any]:
    """The keys of all classes of a group; a key that several classes have takes what any of them takes."""
    merged: dict[str, Any] = {}
    for target in dict.fromkeys(
        str(node["_target_"]) for path in files.values() for _, node in find_components(group, content(path))
    ):
        spec = _try_read(target)
        for name, schema in _arguments(group, spec).items() if spec is not None else ():
            if name in merged and merged[name] != schema:
                before = merged[name].get("anyOf", [merged[name]])
                both = [*before, *(each for each in schema.get("anyOf", [schema]) if each not in before)]
                merged[name] = {**merged[name], "anyOf": both}
            else:
                merged[name] = schema
    return merged


def _class_schema(spec: Signature) -> dict[str, Any]:
    """A class of the schema, such as the one for hardware."""
    meanings = field_meanings(spec.module, spec.target.rpartition(".")[2])
    return _map(
        {
            name: _describe(_any_value(_argument_schema(argument, spec.module)), meanings.get(name, ""))
            for name, argument in spec.arguments.items()
        }
    )


def _map(properties: Mapping[str, Any]) -> dict[str, Any]:
    own = {"defaults": {"type": "array"}, **properties}
    return {"type": "object", "properties": own, "additionalProperties": False}


def _schema_class(name: str) -> Signature | None:
    """The class of a key of the root; None if it is a component or a plain value."""
    root = signature.read(ROOT)
    argument = root.arguments.get(name)
    inner, _ = check.class_of(argument.annotation) if argument is not None else ("", False)
    return signature.read(f"{root.module.name}.{inner}") if inner in root.module.classes else None


def _argument_schema(argument: Argument, module: Module) -> dict[str, Any]:
    """The schema of the values that an argument takes; {} for any."""
    members = list(_members(argument.annotation, module))
    if not members or {} in members or all(member == COMPONENT for member in members):
        return {}
    return members[0] if len(members) == 1 else {"anyOf": members}


def _members(annotation: ast.expr | None, module: Module) -> Iterator[dict[str, Any]]:
    for member in check.members_of(annotation, module):
        name, items = check.name_of(member), check.items_of(member)
        inner = [_argument_schema(Argument(item, True), module) for item in items] if name != "Literal" else []
        if name in TYPES:
            yield dict(TYPES[name])
        elif name == "Literal":
            yield {"enum": [ast.literal_eval(item) for item in items]}
        elif name in check.LISTS or (name in ("tuple", "Tuple") and check.is_endless(items)):
            yield {"type": "array", **({"items": _any_value(inner[0])} if inner else {})}
        elif name in ("tuple", "Tuple"):
            yield {"type": "array", "prefixItems": [_any_value(each) for each in inner], "maxItems": len(inner)}
        elif name in check.MAPS:
            yield {"type": "object", **({"additionalProperties": _any_value(inner[1])} if len(inner) == 2 else {})}
        elif name == "Part":
            yield {"type": "object"}
        elif (
            name in module.classes
            and (spec := _try_read(f"{module.name}.{name}")) is not None
            and name.endswith("Schema")
        ):
            yield _class_schema(spec)
        else:
            yield {} if name in ("Any", "object") else COMPONENT


def _any_value(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that also takes what stands for a value."""
    if not schema or schema == TYPES["str"]:
        return dict(schema)
    return {"anyOf": [*schema.get("anyOf", [schema]), REFERENCE]}


def _describe(schema: dict[str, Any], meaning: str) -> dict[str, Any]:
    return {**schema, "description": meaning} if meaning else schema


def _try_read(target: str) -> Signature | None:
    try:
        return signature.read(target)
    except SourceError:
        return None
