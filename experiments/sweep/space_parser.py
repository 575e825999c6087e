"""Reads the space of a sweep: from the grammar of sweeps, lists and maps to choices and intervals, faults told together."""

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
from experiments.sweep.space import Choice, Dimension, Interval, Space, interval_fault, overlaps, repeated

GRAMMAR = {
    "choice": "choice(a, b, c)", "range": "range(1, 10, 2)", "interval": "interval(0, 1)",
    "tag": "tag(log, interval(1e-5, 1e-1))", "glob": "glob(*)", "int": "int(interval(1, 8))",
    "float": "float(range(1, 4))", "str": "str(choice(1, 2))", "bool": "bool(choice(0, 1))",
    "shuffle": "shuffle(choice(a, b, c))", "sort": "sort(choice(3, 1, 2))",
}  # fmt: skip
"""How one writes each of its functions."""
BOUNDS = ("low", "high", "log", "whole", "step")
KEY = re.compile(r"[A-Za-z_][\w./\[\]-]*")
MOST_VALUES = 10_000


class SpaceParser:
    """Reads one space; afterwards ``problems`` holds what is wrong with it."""

    def __init__(
        self, groups: Mapping[str, Collection[str]] | None, origins: SourceMap | None = None, root: str = ""
    ) -> None:
        """
        Args:
            groups: options by group; None: not checked.
            origins: of a file that the space stands in.
            root: the key of that file that holds the space, as the origins call it.
        """
        self.groups, self.origins, self.root = groups, origins or SourceMap(), root
        self.problems: list[str] = []

    def space(self, node: Mapping[Any, Any], path: str | None = None) -> Space:
        """What a map describes; without what is wrong."""
        path = self.root if path is None else path
        found: Space = {}
        for name, inner in node.items():
            key = str(name).lstrip("+")
            place = f"{path}.{name}".lstrip(".")
            part = self.node(key, inner, place)
            if part is not None:
                found[key] = part
        return found

    def node(self, key: str, node: Any, path: str) -> Dimension | None:
        """What a node of YAML lets a key be; None where that makes no sense."""
        typed = key + self.origins.typed(path, node).removeprefix(path)
        if node is None and ")" in key:
            return None  # the rest of what a comma has cut, which is told
        if not KEY.fullmatch(key) or key == "sweep" or key.startswith("sweep."):
            self.problems.append(f"{typed} names no key of the configuration; write one such as optimizer.lr")
        elif isinstance(node, str):
            return self._text(key, node, path, typed)
        elif isinstance(node, list):
            return self._choice(key, node, typed)
        elif isinstance(node, dict):
            is_interval = any(name in node and not isinstance(node[name], dict) for name in ("low", "high"))
            return self._bounds(node, typed) if is_interval else self._conditional(key, node, path, typed)
        elif node is None:
            self.problems.append(f"{typed} says nothing of what {key} may be; write values such as [1, 2]")
        else:
            return self._choice(key, [node], typed)
        return None

    def written(self, key: str, written: SweepValues, typed: str) -> Dimension | None:
        """What the grammar of sweeps lets a key be; None where that makes no sense.

        Args:
            key: of the configuration.
            written: what the grammar makes of it.
            typed: key and text, as a message begins with them.
        """
        unknown = sorted(written.tags - {"log"})
        if unknown:
            self.problems.append(f"{typed}: there is no tag {unknown[0]!r}; the one there is is written tag(log, ...)")
        elif written.tags and written.kind != "interval":
            self.problems.append(
                f"{typed}: only an interval has a logarithm; write tag(log, interval(1e-5, 1e-1)), or leave the tag out"
            )
        elif written.kind == "glob":
            return self._glob(key, written, typed)
        elif written.kind == "range":
            return self._range(key, written, typed)
        elif written.kind == "interval":
            low, high = written.items
            whole = isinstance(low, int) and isinstance(high, int)
            return self._interval(Interval(low, high, bool(written.tags), whole), typed)
        else:
            options = list(written.items)
            if written.is_shuffled:
                random.Random(key).shuffle(options)  # the same order whenever it is read
            return self._choice(key, options, typed)
        return None

    def _text(self, key: str, text: str, path: str, typed: str) -> Dimension | None:
        if text.count("(") > text.count(")") and self.origins.place(path):
            self.problems.append(f"{typed} ends too early: inside {{}} and [] YAML takes a comma for its own; quote it")
            return None
        from experiments.config.overrides import read_override

        try:
            value = read_override(f"{key}={text}")[1]
        except InputError as err:
            self.problems.append(explained(err, text, typed))
            return None
        return self.written(key, value, typed) if isinstance(value, SweepValues) else self._choice(key, [value], typed)

    def _choice(
        self, key: str, options: list[Any], typed: str, inside: dict[Any, Space] | None = None
    ) -> Dimension | None:
        if not options:
            self.problems.append(f"{typed} is no choice, as there is nothing in it; write values such as [1, 2]")
            return None
        if self.groups is not None and key in self.groups:
            options = self._options(key, options, typed)
        twice = repeated(options)
        if twice:
            self.problems.append(f"{typed} has {twice[0]!r} twice; leave one of them out")
        return Choice(tuple(options), inside or {})

    def _options(self, group: str, options: list[Any], typed: str) -> list[str]:
        """The names of options of a group, of which all that there are not are told."""
        known = (self.groups or {})[group]
        for option in options:
            if not isinstance(option, (str, int)) or str(option) not in known:
                way_out = did_you_mean(str(option), known, f"`lathe options {group}` lists what there is")
                self.problems.append(f"{typed}: {option!r} is no option of the group '{group}'; {way_out}")
        return [str(option) for option in options]

    def _glob(self, key: str, written: SweepValues, typed: str) -> Dimension | None:
        include, exclude = written.items
        if self.groups is None or key not in self.groups:
            self.problems.append(
                f"{typed}: glob chooses among the options of a group, and '{key}' is none; write values"
            )
            return None
        found = [
            name
            for name in sorted(self.groups[key])
            if any(fnmatch(name, mark) for mark in include) and not any(fnmatch(name, mark) for mark in exclude)
        ]
        if not found:
            self.problems.append(f"{typed} fits no option of the group; `lathe options {key}` lists what there is")
            return None
        return Choice(tuple(found))

    def _range(self, key: str, written: SweepValues, typed: str) -> Dimension | None:
        start, stop, step = (Decimal(str(item)) for item in written.items)
        if not all(number.is_finite() for number in (start, stop, step)) or step == 0:
            self.problems.append(f"{typed} never ends; write range(START, STOP, STEP), such as range(1, 10, 2)")
            return None
        count = _num_steps(start, stop, step)
        if count < 1:
            self.problems.append(f"{typed} has no values; write START below STOP, or a negative STEP")
            return None
        whole = all(isinstance(item, int) for item in written.items)
        if count > 1 and step > 0 and not written.is_shuffled:
            low, last, by = (int(n) if whole else float(n) for n in (start, start + (count - 1) * step, step))
            return Interval(low, last, whole=whole, step=by)
        if count > MOST_VALUES:
            self.problems.append(f"{typed} has {count} values in an order of its own; write a rising range")
            return None
        found = [int(number) if whole else float(number) for number in (start + i * step for i in range(count))]
        return self.written(key, SweepValues("choice", tuple(found), is_shuffled=written.is_shuffled), typed)

    def _bounds(self, node: Mapping[str, Any], typed: str) -> Dimension | None:
        """An interval as a map."""
        before = len(self.problems)
        for name, value in node.items():
            if name not in BOUNDS:
                self.problems.append(f"{typed}: an interval has no {name!r}; {did_you_mean(str(name), BOUNDS)}")
            elif type(value) not in ((bool,) if name in ("log", "whole") else (int, float)):
                kind = "true or false" if name in ("log", "whole") else "a number"
                self.problems.append(f"{typed}: {name} of an interval is {kind}, not {value!r}; write one")
        for name in ("low", "high"):
            if name not in node:
                self.problems.append(f"{typed}: {name} of the interval is missing; write `{name}: 1` or the like")
        if len(self.problems) > before:
            return None
        whole, step = bool(node.get("whole")), node.get("step")
        low, high = (node[name] if whole else float(node[name]) for name in ("low", "high"))
        interval = Interval(low, high, bool(node.get("log")), whole, step if whole or not step else float(step))
        if interval_fault(interval) is None and (count := interval.count()) is not None:
            interval = replace(interval, high=interval.at(count - 1))
        return self._interval(interval, typed)

    def _interval(self, interval: Interval, typed: str) -> Dimension | None:
        fault = interval_fault(interval)
        if fault is not None:
            self.problems.append(f"{typed} {fault}")
            return None
        return interval

    def _conditional(self, key: str, node: Mapping[Any, Any], path: str, typed: str) -> Dimension | None:
        """A map of options to the keys that each brings along."""
        inside: dict[Any, Space] = {}
        for option, brought in node.items():
            if isinstance(brought, dict):
                inner = self.space(brought, f"{path}.{option}")
                name = str(option) if self.groups is not None and key in self.groups else option
                inside |= {name: inner} if inner else {}
            elif brought is not None:
                self.problems.append(
                    f"{typed}: what {key}={option} brings along is no map; write `{option}: {{}}` for nothing, or "
                    f"`{key}.{option}: ...` if that is the key"
                )
        return self._choice(key, [*node], typed, inside)


def _num_steps(start: Decimal, stop: Decimal, step: Decimal) -> int:
    """How many values lie from the start on before the stop."""
    whole, rest = divmod(stop - start, step)  # Decimal's goes towards zero
    return int(whole) + (rest != 0) if whole >= 0 and (stop - start) * step > 0 else 0


def explained(err: InputError, text: str, typed: str) -> str:
    """A fault of the grammar, with the way to write the function that was meant."""
    called = re.search(r"\b([a-z_]+)\(", text)
    if called is None:
        return err.problems[0]
    name = called.group(1)
    reason = str(err.__cause__ or err).splitlines()[0]
    reason = re.sub(r"^\w+ while evaluating '.*?': ", "", reason)
    if name not in GRAMMAR:
        return f"{typed}: there is no {name!r} in the grammar of sweeps; {did_you_mean(name, GRAMMAR)}"
    return f"{typed} does not parse ({reason}); write it like {GRAMMAR[name]}"


def parse(node: Mapping[str, Any], groups: Mapping[str, Collection[str]] | None = None) -> Space:
    """The space that a map of YAML describes.

    Args:
        node: by key, text in the grammar of sweeps, a list, the map of an interval (low, high, log, whole, step), or a
            map of options to the keys that each brings along.
        groups: options by group; None: not checked, as they were frozen.

    Raises:
        InputError: with every problem.
    """
    reader = SpaceParser(groups)
    space = reader.space(node)
    told_twice = [] if groups is None else overlaps(space, groups)
    if problems := [*reader.problems, *told_twice]:
        raise InputError(problems, "the space")
    return space
