"""A composed configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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
    source: str | None = None
    """The trial whose configuration the overrides changed; None if the defaults were composed."""
