"""Checks the types of one event or record that was read from a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], bool]
MAX_INT = 2**63 - 1
MAX_TIME = 1e11
"""In the year 5138; later times have no date."""


def matches(record: Mapping[str, Any], fields: Mapping[str, Check]) -> bool:
    """Whether a record has all fields, each with a valid value; it may have more."""
    return all(name in record and check(record[name]) for name, check in fields.items())


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def is_int(value: Any) -> bool:
    return type(value) is int and abs(value) <= MAX_INT


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_INT


def is_number(value: Any) -> bool:
    """NaN and infinity are numbers too: a training may produce them."""
    return type(value) is float or is_int(value)


def is_time(value: Any) -> bool:
    """Seconds since 1970."""
    return is_number(value) and math.isfinite(value) and 0 <= value < MAX_TIME


def is_map(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def is_map_of_maps(value: Any) -> bool:
    return is_map(value) and all(map(is_map, value.values()))


def is_number_map(value: Any) -> bool:
    return is_map(value) and all(map(is_number, value.values()))


def is_list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def is_name(value: Any) -> bool:
    """The name of a file or folder, without the folders above it."""
    return isinstance(value, str) and bool(value.strip(". ")) and "/" not in value and "\0" not in value


def is_one_of(*values: Any) -> Check:
    return lambda value: any(value == one for one in values)


def optional(check: Check) -> Check:
    """Also accepts None."""
    return lambda value: value is None or check(value)
