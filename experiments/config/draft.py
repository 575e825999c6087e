"""What is known while a configuration is composed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments.config.source_map import SourceMap


@dataclass
class ConfigDraft:
    """What is known on the way; problems gather until nothing more can be found out."""

    dirs: Sequence[Path]
    groups: dict[str, dict[str, Path]]
    problems: list[str] = field(default_factory=list)
    origins: SourceMap = field(default_factory=SourceMap)
    undecided: set[str] = field(default_factory=set)
    """Groups whose option is wrong: what is said of their keys cannot be judged."""
