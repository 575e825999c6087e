"""The name, the note and the tags that a user gives to a run or a sweep after its start: `annotations.yaml` in its folder.

The configuration stays as it was frozen. The folder, by which sweeps, other runs and commands name a run, stays too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from experiments.core.atomic import write_text
from experiments.core.files.field_types import Check, is_map, is_text, matches, optional
from experiments.core.files.read_file import DamagedFileError, MissingFileError, read_yaml_map
from experiments.core.lock import locked_within_limits

FILE = "annotations.yaml"
_FIELDS: Mapping[str, Check] = {"name": optional(is_text), "note": optional(is_text), "tags": is_map}


@dataclass(frozen=True)
class Annotations:
    """What a user has said about a run or a sweep after its start."""

    name: str | None = None
    """Instead of the name of the configuration."""
    note: str | None = None
    tags: Mapping[str, str | None] = field(default_factory=dict)
    """Added to those of the configuration; None for one that was removed."""

    def apply_to_tags(self, tags: Mapping[str, Any] | None) -> dict[str, Any]:
        """The tags that count: those of the configuration with the changes."""
        changed = {**(tags or {}), **self.tags}
        return {key: value for key, value in changed.items() if not (value is None and key in self.tags)}


def read_annotations(folder: Path) -> Annotations:
    """Read what a user has said about a run or a sweep.

    Raises:
        DamagedFileError: the file is damaged.
    """
    path = folder / FILE
    try:
        values = {"name": None, "note": None, "tags": {}, **read_yaml_map(path)}
    except MissingFileError:
        return Annotations()
    if not matches(values, _FIELDS) or not all(map(optional(is_text), values["tags"].values())):
        raise DamagedFileError(path, "a value is not text", "correct it, or remove it")
    return Annotations(values["name"], values["note"], values["tags"])


def read_given_name(folder: Path) -> str | None:
    """The name of `lathe rename`; None without one, or if the file is damaged, which the commands that show it report."""
    try:
        return read_annotations(folder).name
    except DamagedFileError:
        return None


def change_annotations(folder: Path, change: Callable[[Annotations], Annotations]) -> Annotations:
    """Read, change and write the annotations; two processes take turns.

    Raises:
        DamagedFileError: the file is damaged.
        OSError: it cannot be written.
    """
    with locked_within_limits(folder / "annotations.lock"):
        changed = change(read_annotations(folder))
        values = {key: value for key, value in asdict(changed).items() if value}
        text: str = yaml.dump(values, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)
        write_text(folder / FILE, text)
    return changed
