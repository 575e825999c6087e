"""An experiment, while it is composed and after that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.config.source_map import SourceMap


@dataclass
class ConfigDraft:
    """The state of a composition that is not finished. Collects problems, so that all of them are reported together."""

    dirs: Sequence[Path]
    groups: dict[str, dict[str, Path]]
    problems: list[str] = field(default_factory=list)
    origins: SourceMap = field(default_factory=SourceMap)
    undecided: set[str] = field(default_factory=set)
    """Groups without a valid option; overrides of their keys are not checked."""


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
    """Keys of the data whose values were found in its files, because they were `auto`."""
    source: str | None = None
    """The trial whose configuration the overrides changed; None if the defaults were composed."""
