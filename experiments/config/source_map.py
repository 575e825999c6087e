"""Where a value of the configuration was written, and what stood there before YAML read it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from experiments.config.options import CONF_DIR
from experiments.core.format import format_value
from experiments.core.secrets import is_secret

OCTAL = re.compile(r"[-+]?0[0-7_]+$")
SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?$")
MERGE = "tag:yaml.org,2002:merge"


@dataclass
class SourceMap:
    """The text and place of every value, by dotted key; what was written last stands."""

    texts: dict[str, str] = field(default_factory=dict)
    locations: dict[str, str] = field(default_factory=dict)
    removed: dict[str, str] = field(default_factory=dict)
    """What was typed to take a key away, by that key."""
    ambiguous_scalars: dict[str, str] = field(default_factory=dict)
    """Numbers that mean something else to YAML than they look like: what is to be told, by key."""

    def add_file(self, path: Path, package: str) -> None:
        """Note every value of an option's file, whose keys lie under ``package``."""
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        if isinstance(node, yaml.MappingNode):
            node.value = [(name, inner) for name, inner in node.value if name.value != "defaults"]
            self.add_node(node, package, path)

    def add_node(self, node: yaml.Node, package: str, path: Path) -> None:
        """Note every value of a part of a file that was parsed already."""
        self._walk(node, package, path)

    def take(self, other: SourceMap, key: str) -> None:
        """Have for a key, and for those below it, what another has."""
        self._forget(key)
        below = (f"{key}.", f"{key}[")
        for own, others in (
            (self.texts, other.texts),
            (self.locations, other.locations),
            (self.ambiguous_scalars, other.ambiguous_scalars),
        ):
            own.update({known: value for known, value in others.items() if known == key or known.startswith(below)})

    def add_override(self, key: str, value: Any, text: str) -> None:
        """Note what was typed on the command line for a key, or for the keys below it."""
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                self.add_override(f"{key}.{name}", inner, format_value(inner))
        else:
            self._forget(key)
            parts = key.split(".")
            for depth in range(1, len(parts)):  # what held a plain value is a map now
                self.texts.pop(".".join(parts[:depth]), None)
                self.locations.pop(".".join(parts[:depth]), None)
            self.texts[key] = text

    def add_removal(self, key: str, text: str) -> None:
        """Note that a key was taken away."""
        self._forget(key)
        self.removed[key] = text

    def as_written(self, key: str, value: Any) -> str:
        """``key=value`` as the user wrote it, with file and line where it was not typed; of a secret only the key."""
        text = self.texts.get(key, format_value(value))
        return f"{key}={'***' if is_secret(key, text) else text}{self.location(key)}"

    def text(self, key: str) -> str | None:
        return self.texts.get(key)

    def location(self, key: str) -> str:
        """Where a value stands, as " (file:line)"; "" where it was typed or is not known."""
        inside = (location for known, location in self.locations.items() if known.startswith((f"{key}.", f"{key}[")))
        location = self.locations.get(key) or ("" if key in self.texts else next(inside, ""))
        return f" ({location})" if location else ""

    def _forget(self, key: str, below: str = ".[") -> None:
        for known in [k for k in self.texts if k == key or (k.startswith(key) and k[len(key)] in below)]:
            self.texts.pop(known)
            self.locations.pop(known, None)

    def _walk(self, node: yaml.Node, key: str, path: Path) -> None:
        if isinstance(node, yaml.MappingNode):
            self._forget(key, below="[")  # a map is merged into a map, and replaces all else
            for name, inner in node.value:
                self._walk(inner, key if name.tag == MERGE else f"{key}.{name.value}".lstrip("."), path)
        elif isinstance(node, yaml.SequenceNode):
            self._forget(key)
            for index, inner in enumerate(node.value):
                self._walk(inner, f"{key}[{index}]", path)
        elif isinstance(node, yaml.ScalarNode):
            self._scalar(node, key, path)

    def _scalar(self, node: yaml.ScalarNode, key: str, path: Path) -> None:
        self._forget(key)
        self.texts[key] = node.value
        self.locations[key] = f"{shown_path(path)}:{node.start_mark.line + 1}"
        if node.style or not node.tag.endswith((":int", ":float")):
            return
        if OCTAL.match(node.value) or SEXAGESIMAL.match(node.value):
            kind = "an octal number" if OCTAL.match(node.value) else "a number to base 60"
            read = yaml.safe_load(node.value)
            self.ambiguous_scalars[key] = (
                f"{self.as_written(key, node.value)} is {kind} to YAML, {read}; "
                f"quote it if text is meant ('{node.value}'), else write {read}"
            )


def shown_path(path: Path) -> str:
    """A path as short as it is clear: from the house, or from the folder one stands in."""
    root = CONF_DIR.parent
    if any(path.is_relative_to(root / folder) for folder in ("conf", "modules", "launchers", "sweeps")):
        return str(path.relative_to(root))
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
