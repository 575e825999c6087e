"""The values of an override in Hydra's sweep grammar: a choice, a range, an interval or a glob."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class SweepValues:
    """Parsed values that are not checked yet."""

    kind: Literal["choice", "range", "interval", "glob"]
    items: tuple[Any, ...]
    """The options; start, stop and step; both ends; or the include and exclude patterns of a glob."""
    tags: frozenset[str] = frozenset()
    is_shuffled: bool = False
