"""Where a value of the configuration was written, and what stood there before YAML read it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

OCTAL = re.compile(r"[-+]?0[0-7_]+$")
SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?$")
PACKAGE = re.compile(r"#\s*@package\s+(\S+)")


@dataclass
class Origins:
    """The text and place of every value, by dotted key; what was written last stands."""

    texts: dict[str, str] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """YAML's traps: numbers that mean something else than they look like."""

    def add_file(self, path: Path, group: str) -> None:
        """Note every value of an option's file."""
        text = path.read_text(encoding="utf-8")
        package = PACKAGE.match(text)
        prefix = group.replace("/", ".")
        if package:
            prefix = package.group(1).replace("_global_", "").replace("_group_", prefix).strip(".")
        node = yaml.compose(text, Loader=yaml.CSafeLoader)
        if node is not None:
            self._walk(node, prefix, path)

    def add_override(self, key: str, typed: str) -> None:
        """Note what was typed on the command line."""
        for known in [k for k in self.texts if k == key or k.startswith(f"{key}.")]:
            self.texts.pop(known)
            self.places.pop(known, None)
        self.texts[key] = typed.split("=", 1)[-1]
        self.places[key] = ""

    def typed(self, key: str, value: Any) -> str:
        """``key=value`` as the user wrote it, with file and line where it was not typed."""
        if key not in self.texts:
            key = next((known for known in self.texts if known.startswith((f"{key}.", f"{key}["))), key)
        place = self.places.get(key)
        text = self.texts.get(key, "null" if value is None else str(value))
        return f"{key}={text}" + (f" ({place})" if place else "")

    def text(self, key: str) -> str | None:
        return self.texts.get(key)

    def _walk(self, node: yaml.Node, key: str, path: Path) -> None:
        if isinstance(node, yaml.MappingNode):
            for name, inner in node.value:
                if not (key == "" and name.value == "defaults"):
                    self._walk(inner, f"{key}.{name.value}".lstrip("."), path)
        elif isinstance(node, yaml.SequenceNode):
            for index, inner in enumerate(node.value):
                self._walk(inner, f"{key}[{index}]", path)
        elif isinstance(node, yaml.ScalarNode):
            self._scalar(node, key, path)

    def _scalar(self, node: yaml.ScalarNode, key: str, path: Path) -> None:
        self.texts[key] = node.value
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        self.places[key] = f"{shown}:{node.start_mark.line + 1}"
        if node.style is not None or not node.tag.endswith((":int", ":float")):
            return
        if OCTAL.match(node.value) or SEXAGESIMAL.match(node.value):
            kind = "an octal number" if OCTAL.match(node.value) else "a number to base 60"
            read = yaml.safe_load(node.value)
            self.problems.append(
                f"{self.typed(key, node.value)} is {kind} to YAML, {read}; "
                f"quote it if text is meant ('{node.value}'), else write {read}"
            )
