"""The state of a composition that is not finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments.config.source_map import SourceMap


@dataclass
class ConfigDraft:
    """Collects problems, so that all of them are reported together."""

    dirs: Sequence[Path]
    groups: dict[str, dict[str, Path]]
    problems: list[str] = field(default_factory=list)
    origins: SourceMap = field(default_factory=SourceMap)
    undecided: set[str] = field(default_factory=set)
    """Groups without a valid option; overrides of their keys are not checked."""
