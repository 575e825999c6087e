"""Where each value of a configuration was written, and its text before YAML parsed it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from experiments.core.files.packages import PROJECT_ROOT
from experiments.core.format import format_value
from experiments.core.secrets import is_secret

OCTAL = re.compile(r"[-+]?0[0-7_]+$")
SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?$")
MERGE = "tag:yaml.org,2002:merge"


class Location(NamedTuple):
    """Where a value is written."""

    path: Path
    line: int

    def __str__(self) -> str:
        return f"{shown_path(self.path)}:{self.line}"


@dataclass
class SourceMap:
    """The text and location of every value, by dotted key. The last text that was added counts."""

    texts: dict[str, str] = field(default_factory=dict)
    locations: dict[str, Location] = field(default_factory=dict)
    removed: dict[str, str] = field(default_factory=dict)
    """The override that removed a key, by that key."""
    ambiguous_scalars: dict[str, str] = field(default_factory=dict)
    """Messages about scalars that YAML reads differently than they look, by key."""
    misread_keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What YAML reads instead of a key, and the message about it, by the key as written."""
    _inside: dict[str, dict[str, None]] = field(default_factory=dict)
    """The keys right below a key, so that forgetting a key does not search all others."""

    def add_file(self, path: Path, package: str) -> None:
        """Record every value of an option's file, under the key ``package``."""
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        if isinstance(node, yaml.MappingNode):
            node.value = [(name, inner) for name, inner in node.value if name.value != "defaults"]
            self.add_node(node, package, path)

    def add_node(self, node: yaml.Node, package: str, path: Path) -> None:
        """Record every value of a parsed YAML node."""
        self._walk(node, package, path)

    def take(self, other: SourceMap, key: str) -> None:
        """Copy the entries of a key, and of the keys below it, from another map."""
        self.forget(key)
        for known in other.keys_at(key):
            self._link(known)
            for own, others in (
                (self.texts, other.texts),
                (self.ambiguous_scalars, other.ambiguous_scalars),
            ):
                if known in others:
                    own[known] = others[known]
            if known in other.locations:
                self.locations[known] = other.locations[known]
        below = (f"{key}.", f"{key}[")
        self.misread_keys |= {known: value for known, value in other.misread_keys.items() if known.startswith(below)}

    def add_override(self, key: str, value: Any, text: str) -> None:
        """Record the text of an override for its key, or for the keys below it."""
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                self.add_override(f"{key}.{name}", inner, format_value(inner))
        else:
            self.forget(key)
            for parent in parents(key):  # the parents are maps now
                self.texts.pop(parent, None)
                self.locations.pop(parent, None)
            self._record(key, text, None)

    def add_removal(self, key: str, text: str) -> None:
        """Record that an override removed a key."""
        self.forget(key)
        self.removed[key] = text

    def copy(self, key: str, to: str) -> None:
        """Record the text and location of a key for another key too."""
        if key in self.texts:
            self._record(to, self.texts[key], self.locations.get(key))

    def as_written(self, key: str, value: Any) -> str:
        """``key=value`` as the user wrote it, with the file and line if it is from a file. Secrets are masked."""
        text = self.texts.get(key, format_value(value))
        return f"{key}={'***' if is_secret(key, text) else text}{self.location(key)}"

    def add_misread(self, problems: Sequence[str]) -> list[str]:
        """The problems of a configuration with those that YAML's reading causes first, and without their consequences."""
        starts = tuple(f"{key}{mark}" for key, _ in self.misread_keys.values() for mark in "=:. ")
        others = [problem for problem in problems if not problem.startswith(starts)] if starts else problems
        messages = [message for _, message in self.misread_keys.values()]
        return [*messages, *self.ambiguous_scalars.values(), *others]

    def text(self, key: str) -> str | None:
        return self.texts.get(key)

    def location(self, key: str) -> str:
        """Where a value was written, as " (file:line)"; "" for an override or an unknown location."""
        location = self.find_location(key)
        return f" ({location})" if location else ""

    def find_location(self, key: str) -> Location | None:
        """Where a value, or the first one in it, was written; None for an override or an unknown location."""
        inside = (self.locations[known] for known in self.keys_at(key) if known in self.locations)
        return self.locations.get(key) or (None if key in self.texts else next(inside, None))

    def keys_at(self, key: str) -> Iterator[str]:
        """A key and all recorded keys below it."""
        yield key
        for inner in list(self._inside.get(key, ())):
            yield from self.keys_at(inner)

    def forget(self, key: str, below: str = ".[") -> None:
        """Remove the entries of a key, and of the keys below it that begin with one of these characters."""
        self.texts.pop(key, None)
        self.locations.pop(key, None)
        inside = self._inside.get(key, {})
        for inner in [inner for inner in inside if inner[len(key)] in below]:
            self.forget(inner)
            del inside[inner]

    def _record(self, key: str, text: str, location: Location | None) -> None:
        self._link(key)
        self.texts[key] = text
        if location is not None:
            self.locations[key] = location

    def _link(self, key: str) -> None:
        for parent in parents(key):
            siblings = self._inside.setdefault(parent, {})
            if key in siblings:
                return
            siblings[key] = None
            key = parent

    def _walk(self, node: yaml.Node, key: str, path: Path) -> None:
        if isinstance(node, yaml.MappingNode):
            self.forget(key, below="[")  # a map is merged into a map, and replaces anything else
            for name, inner in node.value:
                self._walk(inner, key if name.tag == MERGE else self._join(key, name, path), path)
        elif isinstance(node, yaml.SequenceNode):
            self.forget(key)
            for index, inner in enumerate(node.value):
                self._walk(inner, f"{key}[{index}]", path)
        elif isinstance(node, yaml.ScalarNode):
            self._scalar(node, key, path)

    def _join(self, parent: str, name: yaml.Node, path: Path) -> str:
        """The full name of a key, as YAML reads it."""
        key = f"{parent}.{name.value}".lstrip(".")
        if not is_misread(name):
            return key
        read = yaml.safe_load(name.value)
        actual, where = f"{parent}.{read}".lstrip("."), f"{shown_path(path)}:{name.start_mark.line + 1}"
        message = f"{key} ({where}): YAML reads the key {name.value} as {format_value(read)}; quote it: '{name.value}'"
        self.misread_keys[key] = actual, message
        return actual

    def _scalar(self, node: yaml.ScalarNode, key: str, path: Path) -> None:
        self.forget(key)
        self._record(key, node.value, Location(path, node.start_mark.line + 1))
        if node.style or not node.tag.endswith((":int", ":float")):
            return
        if OCTAL.match(node.value) or SEXAGESIMAL.match(node.value):
            kind = "an octal number" if OCTAL.match(node.value) else "a base-60 number"
            read = yaml.safe_load(node.value)
            self.ambiguous_scalars[key] = (
                f"{self.as_written(key, node.value)} is {kind} in YAML, {read}; "
                f"quote it to get text ('{node.value}'), or write {read}"
            )


def is_misread(key: yaml.Node) -> bool:
    """Whether YAML reads a key as a truth value, null, or a number that looks different."""
    if not isinstance(key, yaml.ScalarNode) or key.style:
        return False
    looks_different = OCTAL.match(key.value) or SEXAGESIMAL.match(key.value)
    return key.tag.endswith((":bool", ":null")) or bool(looks_different and key.tag.endswith((":int", ":float")))


def find_misread_keys(path: Path) -> list[str]:
    """The messages about the keys of a file that OmegaConf cannot read."""
    source_map = SourceMap()
    source_map.add_file(path, "")
    return [message for _, message in source_map.misread_keys.values()]


def parents(key: str) -> Iterator[str]:
    """The keys above a key, the nearest first: ``a.b`` and ``a`` for ``a.b[0]``."""
    while (cut := max(key.rfind("."), key.rfind("["))) > 0:
        key = key[:cut]
        yield key


def shown_path(path: Path) -> str:
    """A short form of a path: relative to the project or to the current folder."""
    root = PROJECT_ROOT
    if any(path.is_relative_to(root / folder) for folder in ("conf", "modules", "launchers", "sweeps")):
        return str(path.relative_to(root))
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
