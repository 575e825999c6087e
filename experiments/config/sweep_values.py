"""What an override in the grammar of sweeps holds: several values, a range, an interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class SweepValues:
    """What was written in the grammar of sweeps, before it is known to make sense."""

    kind: Literal["choice", "range", "interval", "glob"]
    items: tuple[Any, ...]
    """The options; start, stop and step; both ends; or what a glob takes in and what it leaves out."""
    tags: frozenset[str] = frozenset()
    is_shuffled: bool = False
