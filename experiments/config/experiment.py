"""An experiment, while it is composed and after that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.config import options
from experiments.config.source_map import SourceMap, parents
from experiments.core.format import format_value


@dataclass
class ConfigDraft:
    """The state of a composition that is not finished. Collects problems, so that all of them are reported together."""

    dirs: Sequence[Path]
    groups: dict[str, dict[str, Path]]
    problems: list[str] = field(default_factory=list)
    origins: SourceMap = field(default_factory=SourceMap)
    undecided: set[str] = field(default_factory=set)
    """Groups without a valid option; overrides of their keys are not checked."""

    @cached_property
    def own_groups(self) -> frozenset[str]:
        """The groups of the user that Lathe does not have."""
        return options.find_own_groups(self.groups)


@dataclass(frozen=True)
class Experiment:
    """A composed configuration: checked against the schema, and resolved except for `${oc.env:...}`."""

    config: dict[str, Any]
    overrides: tuple[str, ...]
    choices: dict[str, str | None]
    """The option of every group."""
    config_dirs: tuple[str, ...] = ()
    trust: tuple[str, ...] = ()
    links: dict[str, str] = field(default_factory=dict)
    """The references that were resolved, by key, such as ``${data.num_classes}``."""
    auto_keys: tuple[str, ...] = ()
    """Keys of the data and the model, such as ``data.num_train``, whose values were found in files: they were `auto`."""
    origins: SourceMap = field(default_factory=SourceMap, repr=False, compare=False)
    """Where its values are written."""
    source: str | None = None
    """The trial whose configuration the overrides changed; None if the defaults were composed."""

    def list_origins(self) -> Iterator[str]:
        """A line for each value: ``key=value`` and where it is written."""
        for key, value in _leaves(self.config, ""):
            text, location = self.origins.text(key), self.origins.find_location(key)
            place = "Lathe's default" if text is None else "the command line"
            if location is not None:
                place = f"{'Lathe: ' if location.path.is_relative_to(options.CONF_DIR) else ''}{location}"
            if text is not None and "${" in text and text != value:
                place += f", {text}"
            if key in self.auto_keys or {*parents(key)} & {*self.auto_keys}:
                place += f", found in the files of the {key.partition('.')[0]}"
            yield f"{key}={format_value(value)}  ({place})"


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and (node or not key):
        for name, inner in node.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, node
