"""Values, times and counts as text."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import yaml


def format_point(values: Mapping[str, Any], short: Mapping[str, str] | None = None) -> str:
    """The values of a point as overrides, with short names for some keys."""
    return " ".join(f"{(short or {}).get(key, key)}={_shown(value)}" for key, value in values.items())


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else format_value(value)


def format_duration(seconds: float | None) -> str:
    """Such as ``45 s``, ``12 min``, ``3.4 h`` or ``2.1 d``."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for unit, size, most in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 48)):
        if seconds < size * most:
            return f"{seconds / size:.0f} {unit}" if unit != "h" else f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:.1f} d"


def format_hours(value: float) -> str:
    """Device-hours, as `format_duration`."""
    return format_duration(value * 3600)


def format_number(value: float | None) -> str:
    """A metric in 4 significant digits; "" for None."""
    return "" if value is None else f"{value:.4g}"


def to_json(value: Any) -> str:
    """A JSON document of plain values and dataclasses. NaN and infinity, which JSON lacks, become null; dates become texts."""
    return json.dumps(_plain(value), indent=2, allow_nan=False, default=str)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


MOST_SHOWN = 60


class Unknown:
    """Stands for a value whose error is already reported."""


class _ValueDumper(yaml.SafeDumper):
    """Writes an unknown value as `...`."""


_ValueDumper.add_representer(Unknown, lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:str", "..."))


def format_value(value: Any) -> str:
    """A value as YAML on one line, truncated if it is long."""
    text = yaml.dump(
        value, Dumper=_ValueDumper, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False
    )
    text = text.removesuffix("\n").removesuffix("\n...")
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def format_bytes(number: int) -> str:
    """The size of files, such as ``0.3 MB`` or ``12.4 GB``."""
    return f"{number / 1e6:,.1f} MB" if number < 1e9 else f"{number / 1e9:,.1f} GB"
