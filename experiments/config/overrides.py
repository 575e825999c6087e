"""One override: its key and value in Hydra's grammar."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep, ValueType
from hydra.errors import HydraException

from experiments.config.sweep_values import SweepValues
from experiments.core.errors import InputError
from experiments.core.secrets import is_secret


def read_override(override_text: str) -> tuple[str, Any]:
    """The key of an override, and its value: plain, or `SweepValues` where it is in the grammar of sweeps.

    Raises:
        InputError: it does not parse, or nothing can be overridden so.
    """
    try:
        override = OverridesParser.create().parse_override(override_text)
    except HydraException as err:
        raise InputError([describe_syntax_error(override_text, str(err).splitlines()[0])]) from err
    fault = find_fault(replace(override, value_type=ValueType.ELEMENT), ())
    if fault is not None:
        raise InputError([f"{mask_secret(override)}{fault}"])
    value: Any = override.value()
    if isinstance(value, ChoiceSweep):
        items = tuple(Override._convert_value(item) for item in value.list)
        value = SweepValues("choice", items, frozenset(value.tags), value.shuffle)
    elif isinstance(value, RangeSweep):
        value = SweepValues("range", (value.start, value.stop, value.step), frozenset(value.tags), value.shuffle)
    elif isinstance(value, IntervalSweep):
        value = SweepValues("interval", (value.start, value.end), frozenset(value.tags))
    elif isinstance(value, Glob):
        value = SweepValues("glob", (tuple(value.include), tuple(value.exclude)))
    return override.key_or_group, value


def describe_syntax_error(override_text: str, reason: str) -> str:
    key, equals, value = override_text.partition("=")
    if not equals and not override_text.startswith("~"):
        return f"{override_text!r} is no override; write key=value"
    if value.startswith("="):
        return f"{override_text!r} has one '=' too many; write {key}={value.lstrip('=')}"
    if key != key.strip() or value != value.lstrip():
        return f"{override_text!r} has a space too many; write {key.strip()}={value.strip()}"
    if "[" in key:
        return (
            f"{override_text!r} names a part of a list, and a list is given whole; write {key.partition('[')[0]}=[...]"
        )
    quote = '"' if "'" in value else "'"
    outer = "'" if quote == '"' else '"'
    value = "***" if is_secret(key, value) else value
    return f"{key}={value} does not parse ({reason}); quote the value twice: {outer}{key}={quote}{value}{quote}{outer}"


def find_fault(override: Override, groups: Collection[str]) -> str | None:
    """What is wrong with an override whatever the configuration is."""
    key = override.key_or_group
    if override.is_sweep_override():
        hint = "give one, or ask for a sweep: `lathe run -m`"
        if override.value_type == ValueType.SIMPLE_CHOICE_SWEEP and key not in groups:
            hint = f"{hint}; a text with commas is quoted twice: \"{key}='a,b'\""
        return f" gives several values, and a run takes one; {hint}"
    if not key:
        return " names no key; write key=value"
    if override.package is not None:
        return f" moves an option to another place, and each has its own; leave '@{override.package}' out"
    if re.split(r"[./]", key)[0] == "hydra":
        return ": Hydra itself is not configured here; `--config-dir DIR` adds a folder of options"
    return None


def mask_secret(override: Override) -> str:
    """An override as it was typed, but for secrets."""
    override_text = override.input_line or ""
    key, equals, value = override_text.partition("=")
    return f"{key}=***" if equals and is_secret(override.key_or_group, value) else override_text
