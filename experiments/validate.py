"""Holds a composed configuration against its closed schema and tells every fault at once."""

from __future__ import annotations

import ast
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from experiments import check, signature
from experiments.faults import did_you_mean
from experiments.origins import Origins
from experiments.secrets import looks_secret
from experiments.signature import Argument, Module, Signature, SourceError
from experiments.targets import is_allowed

ROOT = "experiments.schema.Experiment"
MARKS = ("_target_", "_partial_")


@dataclass
class Validation:
    """One pass over a configuration; afterwards ``problems`` holds what is wrong."""

    origins: Origins
    trust: Collection[str] = ()
    groups: Collection[str] = ()
    problems: list[str] = field(default_factory=list)

    def root(self, config: dict[str, Any]) -> None:
        """Check everything from the root down."""
        self._secrets(config, "")
        self._fields(config, signature.read(ROOT), "")

    def _fields(self, node: dict[str, Any], spec: Signature, prefix: str) -> None:
        for name, value in node.items():
            key = f"{prefix}{name}"
            if name not in spec.arguments:
                where = f"a key of {prefix[:-1]}" if prefix else "a key of the configuration"
                way_out = did_you_mean(name, {*spec.arguments, *(self.groups if not prefix else ())})
                self.problems.append(f"{self.origins.typed(key, value)}: {key!r} is not {where}; {way_out}")
            else:
                self._value(value, spec.arguments[name], spec.module, key)
        for name in spec.arguments.keys() - node.keys():
            self.problems.append(f"{prefix}{name} is missing; every key of the root must stand, null where it is off")

    def _value(self, value: Any, argument: Argument, module: Module, key: str) -> None:
        annotation = argument.annotation
        name = annotation.id if isinstance(annotation, ast.Name) else ""
        if name == "Part":
            self.part(value, key)
        elif name in module.classes and isinstance(value, dict):
            self._fields(value, signature.read(f"{module.name}.{name}"), f"{key}.")
        elif name in module.classes:
            self._mismatch(key, value, "a map of its own keys")
        elif (wanted := check.mismatch(value, annotation, module)) is not None:
            self._mismatch(key, value, wanted)

    def part(self, node: Any, key: str) -> None:
        """Check a node that names a class, and the nodes inside it that do."""
        if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
            way_out = f"choose an option of the group: `lathe options {key}`"
            self.problems.append(f"{self.origins.typed(key, node)} names no class (_target_); {way_out}")
            return
        spec = self._signature(node["_target_"], f"{key}._target_")
        if spec is not None:
            self._arguments(node, spec, key)

    def _signature(self, target: str, key: str) -> Signature | None:
        package = target.partition(".")[0]
        typed = self.origins.typed(key, target)
        trust = f"if you trust the code of '{package}', add `--trust {package}`"
        if not is_allowed(target, self.trust):
            self.problems.append(f"{typed} is not on the list of code that may run; {trust}")
            return None
        try:
            spec = signature.read(target)
        except SourceError as err:
            self.problems.append(f"{typed} cannot be found: {err}")
            return None
        if not is_allowed(f"{spec.module.name}.", self.trust):
            self.problems.append(f"{typed} is defined in '{spec.module.name}', which is not on the list; {trust}")
            return None
        return spec

    def _arguments(self, node: dict[str, Any], spec: Signature, key: str) -> None:
        short = spec.target.rpartition(".")[2]
        for name, value in node.items():
            if name in MARKS:
                continue
            if name in spec.arguments:
                self._argument(value, spec.arguments[name], spec.module, f"{key}.{name}")
            elif not spec.is_open:
                typed = self.origins.typed(f"{key}.{name}", value)
                self.problems.append(f"{typed}: {short} has no argument {name!r}; {did_you_mean(name, spec.arguments)}")
        if node.get("_partial_"):
            return
        for name, argument in spec.arguments.items():
            if argument.required and name not in node:
                self.problems.append(f"{key}.{name} is missing; {short} needs it: `{key}.{name}=...`")

    def _argument(self, value: Any, argument: Argument, module: Module, key: str) -> None:
        if isinstance(value, dict) and "_target_" in value:
            self.part(value, key)
        elif (wanted := check.mismatch(value, argument.annotation, module)) is not None:
            self._mismatch(key, value, wanted)

    def _mismatch(self, key: str, value: Any, wanted: str) -> None:
        typed, text = self.origins.typed(key, value), self.origins.text(key)
        way_out = f"see `lathe options {key.split('.')[0]}`" if "." in key else "see `lathe options`"
        if "text" in wanted and not isinstance(value, (str, dict, list)) and value is not None:
            read = str(value).lower() if isinstance(value, bool) else value
            way_out = f"YAML reads {text or value} as {read}: quote it twice on a command line (\"{key}='{text}'\")"
        elif wanted.startswith("one of "):
            way_out = did_you_mean(str(value), wanted[len("one of ") :].split(", "), otherwise=f"write {wanted}")
        elif check.is_reference(value):
            way_out = "what the environment gives is text; `${oc.decode:${oc.env:NAME}}` reads it as YAML"
        elif value is None:
            way_out = f"write `{key}=...`"
        self.problems.append(f"{typed} is not {wanted}; {way_out}")

    def _secrets(self, value: Any, key: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                self._secrets(inner, f"{key}.{name}" if key else str(name))
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                self._secrets(inner, f"{key}[{index}]")
        elif looks_secret(key, value):
            place = self.origins.places.get(key)
            self.problems.append(
                f"{key}=***{f' ({place})' if place else ''} looks like a secret, which must not be written into a trial; "
                f"put it into the environment and write `{key}=${{oc.env:NAME}}`"
            )
