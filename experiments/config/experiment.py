"""A composed configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Experiment:
    """A composed configuration: resolved but for `${oc.env:...}`, and checked against the schema."""

    config: dict[str, Any]
    overrides: tuple[str, ...]
    choices: dict[str, str | None]
    """The option of every group."""
    config_dirs: tuple[str, ...] = ()
    trust: tuple[str, ...] = ()
    links: dict[str, str] = field(default_factory=dict)
    """Keys whose value follows other keys: what is written there, such as ``${data.num_classes}``."""
    source: str | None = None
    """The trial whose whole configuration the overrides changed; None: they were composed with the defaults."""
