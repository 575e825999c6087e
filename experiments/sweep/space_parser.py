"""Parses the search space of a sweep: YAML and the sweep grammar to choices and intervals. Reports all problems together."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from decimal import Decimal
from fnmatch import fnmatch
from typing import Any

from experiments.config.source_map import SourceMap
from experiments.config.sweep_values import SweepValues
from experiments.core.errors import InputError, did_you_mean
from experiments.core.renamed import suggestion
from experiments.sweep.space import (
    Choice,
    Dimension,
    Interval,
    Space,
    find_interval_problem,
    find_overlaps,
    find_repeated,
)

GRAMMAR = {
    "choice": "choice(a, b, c)", "range": "range(1, 10, 2)", "interval": "interval(0, 1)",
    "tag": "tag(log, interval(1e-5, 1e-1))", "glob": "glob(*)", "int": "int(interval(1, 8))",
    "float": "float(range(1, 4))", "str": "str(choice(1, 2))", "bool": "bool(choice(0, 1))",
    "shuffle": "shuffle(choice(a, b, c))", "sort": "sort(choice(3, 1, 2))",
}  # fmt: skip
"""An example of each function of the grammar."""
BOUNDS = ("low", "high", "log", "integer", "step")
KEY = re.compile(r"[A-Za-z_][\w./\[\]-]*")
MAX_VALUES = 10_000


class SpaceParser:
    """Parses one space and collects its ``problems``."""

    def __init__(
        self, groups: Mapping[str, Collection[str]] | None, source_map: SourceMap | None = None, root: str = ""
    ) -> None:
        """
        Args:
            groups: options by group; None: options are not checked.
            source_map: of the file with the space.
            root: the key of the space in that file.
        """
        self.groups, self.source_map, self.root = groups, source_map or SourceMap(), root
        self.problems: list[str] = []

    def parse_space(self, node: Mapping[Any, Any], path: str | None = None) -> Space:
        """Parse a map; invalid keys are left out."""
        path = self.root if path is None else path
        space: Space = {}
        for name, inner in node.items():
            key = str(name).lstrip("+")
            dimension = self.parse_node(key, inner, f"{path}.{name}".lstrip("."))
            if dimension is not None:
                space[key] = dimension
        return space

    def parse_node(self, key: str, node: Any, path: str) -> Dimension | None:
        """Parse the YAML node of a key; None if it is invalid."""
        text = key + self.source_map.as_written(path, node).removeprefix(path)
        if node is None and ")" in key:
            return None  # the rest of a text that YAML split at a comma, which is already reported
        if not KEY.fullmatch(key) or key == "sweep" or key.startswith("sweep."):
            self.problems.append(f"{text} is not a key of the configuration; write one such as optimizer.lr")
        elif isinstance(node, str):
            return self._text(key, node, path, text)
        elif isinstance(node, list):
            return self._choice(key, node, text)
        elif isinstance(node, dict):
            is_interval = any(name in node and not isinstance(node[name], dict) for name in ("low", "high"))
            return self._bounds(node, text) if is_interval else self._conditional(key, node, path, text)
        elif node is None:
            self.problems.append(f"{text} has no values; write some, such as [1, 2]")
        else:
            return self._choice(key, [node], text)
        return None

    def parse_values(self, key: str, values: SweepValues, text: str) -> Dimension | None:
        """Parse values in the sweep grammar; None if they are invalid.

        Args:
            key: of the configuration.
            values: what Hydra parsed.
            text: key and value as written, for messages.
        """
        unknown = sorted(values.tags - {"log"})
        if unknown:
            self.problems.append(f"{text}: there is no tag {unknown[0]!r}; the only tag is written tag(log, ...)")
        elif values.tags and values.kind != "interval":
            self.problems.append(
                f"{text}: only an interval can have the tag log; write tag(log, interval(1e-5, 1e-1)), or remove the tag"
            )
        elif values.kind == "glob":
            return self._glob(key, values, text)
        elif values.kind == "range":
            return self._range(key, values, text)
        elif values.kind == "interval":
            low, high = values.items
            is_integer = isinstance(low, int) and isinstance(high, int)
            return self._interval(Interval(low, high, bool(values.tags), is_integer), text)
        else:
            options = list(values.items)
            if values.is_shuffled:
                random.Random(key).shuffle(options)  # the same order each time
            return self._choice(key, options, text)
        return None

    def _text(self, key: str, node: str, path: str, text: str) -> Dimension | None:
        if node.count("(") > node.count(")") and self.source_map.location(path):
            self.problems.append(
                f"{text} is cut at a comma, because YAML splits at commas inside {{}} and []; quote the value"
            )
            return None
        from experiments.config.overrides import read_override

        try:
            value = read_override(f"{key}={node}")[1]
        except InputError as err:
            self.problems.append(explain_syntax_error(err, node, text))
            return None
        return (
            self.parse_values(key, value, text) if isinstance(value, SweepValues) else self._choice(key, [value], text)
        )

    def _choice(
        self, key: str, options: list[Any], text: str, inside: dict[Any, Space] | None = None
    ) -> Dimension | None:
        if not options:
            self.problems.append(f"{text} is an empty choice; write values such as [1, 2]")
            return None
        if self.groups is not None and key in self.groups:
            options = self._options(key, options, text)
        repeated = find_repeated(options)
        if repeated:
            self.problems.append(f"{text} has {repeated[0]!r} twice; remove one")
        return Choice(tuple(options), inside or {})

    def _options(self, group: str, options: list[Any], text: str) -> list[str]:
        """Check the names of options of a group."""
        known = (self.groups or {})[group]
        for option in options:
            if not isinstance(option, (str, int)) or str(option) not in known:
                hint = did_you_mean(str(option), known, f"`lathe options {group}` lists them")
                self.problems.append(f"{text}: {option!r} is not an option of the group '{group}'; {hint}")
        return [str(option) for option in options]

    def _glob(self, key: str, values: SweepValues, text: str) -> Dimension | None:
        include, exclude = values.items
        if self.groups is None or key not in self.groups:
            self.problems.append(f"{text}: glob selects options of a group, and '{key}' is not a group; write values")
            return None
        options = [
            name
            for name in sorted(self.groups[key])
            if any(fnmatch(name, pattern) for pattern in include)
            and not any(fnmatch(name, pattern) for pattern in exclude)
        ]
        if not options:
            self.problems.append(f"{text} matches no option of the group; `lathe options {key}` lists them")
            return None
        return Choice(tuple(options))

    def _range(self, key: str, values: SweepValues, text: str) -> Dimension | None:
        start, stop, step = (Decimal(str(item)) for item in values.items)
        if not all(number.is_finite() for number in (start, stop, step)) or step == 0:
            self.problems.append(f"{text} never ends; write range(START, STOP, STEP), such as range(1, 10, 2)")
            return None
        count = _count_steps(start, stop, step)
        if count < 1:
            self.problems.append(f"{text} has no values; write START below STOP, or a negative STEP")
            return None
        is_integer = all(isinstance(item, int) for item in values.items)
        if count > 1 and step > 0 and not values.is_shuffled:
            low, last, by = (int(n) if is_integer else float(n) for n in (start, start + (count - 1) * step, step))
            return Interval(low, last, is_integer=is_integer, step=by)
        if count > MAX_VALUES:
            self.problems.append(f"{text} has {count} values in descending or random order; write an ascending range")
            return None
        numbers = [int(number) if is_integer else float(number) for number in (start + i * step for i in range(count))]
        return self.parse_values(key, SweepValues("choice", tuple(numbers), is_shuffled=values.is_shuffled), text)

    def _bounds(self, node: Mapping[str, Any], text: str) -> Dimension | None:
        """Parse the map of an interval."""
        before = len(self.problems)
        for name, value in node.items():
            if name not in BOUNDS:
                self.problems.append(f"{text}: an interval has no key {name!r}; {suggestion(str(name), BOUNDS)}")
            elif type(value) not in ((bool,) if name in ("log", "integer") else (int, float)):
                kind = "true or false" if name in ("log", "integer") else "a number"
                self.problems.append(f"{text}: {name} of an interval must be {kind}, not {value!r}; write one")
        for name in ("low", "high"):
            if name not in node:
                self.problems.append(f"{text}: {name} of the interval is missing; write `{name}: 1`, for example")
        if len(self.problems) > before:
            return None
        is_integer, step = bool(node.get("integer")), node.get("step")
        low, high = (node[name] if is_integer else float(node[name]) for name in ("low", "high"))
        interval = Interval(
            low, high, bool(node.get("log")), is_integer, step if is_integer or not step else float(step)
        )
        if find_interval_problem(interval) is None and (count := interval.count()) is not None:
            interval = replace(interval, high=interval.at(count - 1))
        return self._interval(interval, text)

    def _interval(self, interval: Interval, text: str) -> Dimension | None:
        problem = find_interval_problem(interval)
        if problem is not None:
            self.problems.append(f"{text} {problem}")
            return None
        return interval

    def _conditional(self, key: str, node: Mapping[Any, Any], path: str, text: str) -> Dimension | None:
        """Parse a map from options to the keys that exist only with each."""
        inside: dict[Any, Space] = {}
        for option, keys in node.items():
            if isinstance(keys, dict):
                inner = self.parse_space(keys, f"{path}.{option}")
                name = str(option) if self.groups is not None and key in self.groups else option
                inside |= {name: inner} if inner else {}
            elif keys is not None:
                self.problems.append(
                    f"{text}: the keys of {key}={option} are not a map; write `{option}: {{}}` for none, or "
                    f"`{key}.{option}: ...` for that key"
                )
        return self._choice(key, [*node], text, inside)


def _count_steps(start: Decimal, stop: Decimal, step: Decimal) -> int:
    """Number of values from ``start`` up to ``stop``, without ``stop``."""
    count, rest = divmod(stop - start, step)  # Decimal rounds towards zero
    return int(count) + (rest != 0) if count >= 0 and (stop - start) * step > 0 else 0


def explain_syntax_error(err: InputError, value: str, text: str) -> str:
    """The message of a syntax error, with an example of the function that the value calls."""
    call = re.search(r"\b([a-z_]+)\(", value)
    if call is None:
        return err.problems[0]
    name = call.group(1)
    reason = str(err.__cause__ or err).splitlines()[0]
    reason = re.sub(r"^\w+ while evaluating '.*?': ", "", reason)
    if name not in GRAMMAR:
        return f"{text}: there is no {name!r} in the sweep grammar; {did_you_mean(name, GRAMMAR)}"
    return f"{text} does not parse ({reason}); write it like {GRAMMAR[name]}"


def parse(node: Mapping[str, Any], groups: Mapping[str, Collection[str]] | None = None) -> Space:
    """Parse the space of a YAML map.

    Args:
        node: by key, text in the sweep grammar, a list, the map of an interval (low, high, log, integer, step), or a
            map from options to the keys that exist only with each.
        groups: options by group; None: options are not checked, because the space is frozen.

    Raises:
        InputError: with all problems.
    """
    parser = SpaceParser(groups)
    space = parser.parse_space(node)
    overlaps = [] if groups is None else find_overlaps(space, groups)
    if problems := [*parser.problems, *overlaps]:
        raise InputError(problems, "the space")
    return space
