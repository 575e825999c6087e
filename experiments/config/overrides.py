"""Reads one override in Hydra's grammar."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from experiments.config.sweep_values import SweepValues
from experiments.core.errors import InputError
from experiments.core.secrets import is_secret

MAX_CHARACTERS, MAX_ITEMS, MAX_DEPTH = 100_000, 3_000, 50
"""Of one override: Hydra's parser takes 3 s for 3,000 values and 9 s for 5,000 (2026-11)."""
MAX_SHOWN = 80
TARGET = "_target_"


def read_override(override_text: str) -> tuple[str, Any]:
    """The key of an override and its value: plain, or `SweepValues` if it uses Hydra's sweep grammar.

    Raises:
        InputError: it does not parse, or it overrides something that cannot be overridden.
    """
    override = parse_override(override_text)
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


def parse_override(override_text: str) -> Override:
    """Parse an override whose values can be converted.

    Raises:
        InputError: it does not parse, or it is larger than `MAX_ITEMS`, `MAX_DEPTH` and `MAX_CHARACTERS` allow.
    """
    key, _, value = override_text.partition("=")
    limits = (
        (len(override_text), MAX_CHARACTERS, "characters"), (override_text.count(","), MAX_ITEMS, "values"),
        (max(_depth(value), key.count(".")), MAX_DEPTH, "levels of nesting"),
    )  # fmt: skip
    for size, limit, unit in limits:
        if size > limit:
            problem = f"has more than {limit:,} {unit}; write it to an option's file, see `--config-dir`"
            raise InputError([f"{override_text[:MAX_SHOWN]}... {problem}"])
    try:
        override = OverridesParser.create().parse_override(override_text)
        override.value()
    except HydraException as err:
        raise InputError([describe_syntax_error(override_text, str(err).splitlines()[0])]) from err
    except (ValueError, ArithmeticError) as err:  # such as a number of 5,000 digits
        reason = str(err).partition(";")[0]
        raise InputError([f"{override_text[:MAX_SHOWN]}... does not parse ({reason}); write a shorter value"]) from err
    return override


def _depth(value: str) -> int:
    """How deep brackets are nested; those in quotes count too."""
    depth = deepest = 0
    for character in value:
        depth += (character in "[{(") - (character in "]})")
        deepest = max(deepest, depth)
    return deepest


def describe_syntax_error(override_text: str, reason: str) -> str:
    key, equals, value = override_text.partition("=")
    if not equals and not override_text.startswith("~"):
        return f"{override_text!r} is not an override; write key=value"
    if value.startswith("="):
        return f"{override_text!r} has an extra '='; write {key}={value.lstrip('=')}"
    if key != key.strip() or value != value.lstrip():
        return f"{override_text!r} has an extra space; write {key.strip()}={value.strip()}"
    if "[" in key:
        return f"{override_text!r} sets one element of a list; set the whole list, write {key.partition('[')[0]}=[...]"
    quote = '"' if "'" in value else "'"
    outer = "'" if quote == '"' else '"'
    value = "***" if is_secret(key, value) else value
    return f"{key}={value} does not parse ({reason}); quote the value twice: {outer}{key}={quote}{value}{quote}{outer}"


NAMED_OPTIONS = {"data": "evaluation_sets.", "evaluator": "evaluator.evaluators."}
"""Where further options of a group can be, by a name: ``data@evaluation_sets.NAME=mnist``."""


def is_named_option(override: Override) -> bool:
    """Whether an override adds an option of a group under a name."""
    place, package = NAMED_OPTIONS.get(override.key_or_group), override.package or ""
    return place is not None and package.startswith(place) and package.removeprefix(place).isidentifier()


def is_replaced(parent: Any, old: Any, new: Any) -> bool:
    """Whether a new map takes the place of an old one, instead of adding to it.

    It does if the map is an argument of a component: its keys are the user's, such as the files of a data set. Maps that hold
    components, such as several evaluators, and those of the root, such as the tags, get the new keys beside the old ones.
    """
    is_map = isinstance(old, DictConfig) and isinstance(new, (dict, DictConfig))
    return is_map and isinstance(parent, DictConfig) and TARGET in parent and not (_has_target(old) or _has_target(new))


def _has_target(node: Any) -> bool:
    """Whether a map is a component, or holds one at any depth."""
    plain = OmegaConf.to_container(node, resolve=False) if isinstance(node, DictConfig) else node
    return isinstance(plain, dict) and (TARGET in plain or any(map(_has_target, plain.values())))


def find_fault(override: Override, groups: Collection[str]) -> str | None:
    """What is wrong with an override in any configuration."""
    key = override.key_or_group
    if override.is_sweep_override():
        hint = "give one value, or start a sweep with `lathe run -m`"
        if override.value_type == ValueType.SIMPLE_CHOICE_SWEEP and key not in groups:
            hint = f"{hint}; quote a text with commas twice: \"{key}='a,b'\""
        return f" gives several values, but a run takes one; {hint}"
    if not key:
        return " has no key; write key=value"
    if override.package is not None and not is_named_option(override):
        if (place := NAMED_OPTIONS.get(key)) is not None:
            return (
                f" is not a place for another {key}; write {key}@{place}NAME=..., where NAME is a name of your choice"
            )
        return f" moves an option to another key, which is not supported; remove '@{override.package}'"
    if re.split(r"[./]", key)[0] == "hydra":
        return ": Hydra's own settings cannot be changed; `--config-dir DIR` adds a folder of options"
    return None


def mask_secret(override: Override) -> str:
    """The override as the user wrote it, with a secret value replaced by ``***``."""
    override_text = override.input_line or ""
    key, equals, value = override_text.partition("=")
    return f"{key}=***" if equals and is_secret(override.key_or_group, value) else override_text
