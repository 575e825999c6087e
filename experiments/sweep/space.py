"""The space of a sweep: by key of the configuration, what it may be. Knows neither Hydra nor Optuna."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, TypeAlias

from experiments.core.errors import InputError


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    options: tuple[Any, ...]
    inside: dict[Any, Space] = field(default_factory=dict)
    """By option, the keys that it brings along."""


@dataclass(frozen=True)
class Interval:
    """A number between two, both of which it may be."""

    low: float
    high: float
    log: bool = False
    """Whether its logarithm, not itself, is drawn evenly."""
    whole: bool = False
    step: float | None = None
    """From ``low`` on, what lies between two values; null: nothing, or 1 between whole ones."""

    def count(self) -> int | None:
        """How many values it has; None where there is no end of them."""
        step = self.step or (1 if self.whole else None)
        return None if step is None else int((_exact(self.high) - _exact(self.low)) // _exact(step)) + 1

    def at(self, index: int) -> float:
        """One of its values, as one would write it: 0.3, not 0.30000000000000004."""
        value = _exact(self.low) + index * _exact(self.step or 1)
        return int(value) if self.whole else float(value)


Dimension: TypeAlias = "Choice | Interval"
Space: TypeAlias = "dict[str, Choice | Interval]"


def _exact(number: float) -> Decimal:
    return Decimal(str(number))


def points(space: Space) -> Iterator[dict[str, Any]]:
    """Every point of the grid, the last key changing first.

    Raises:
        InputError: a key has no end of values.
    """
    if problems := endless(space):
        raise InputError(problems, "the grid")
    return _points(space)


def _points(space: Space) -> Iterator[dict[str, Any]]:
    if not space:
        yield {}
        return
    key, *others = space
    part, rest = space[key], {other: space[other] for other in others}
    for value in values(part):
        inner = part.inside.get(value, {}) if isinstance(part, Choice) and part.inside else {}
        for within in _points(inner):
            for point in _points(rest):
                yield {key: value, **within, **point}


def values(part: Dimension) -> Iterator[Any]:
    """All that a key may be, which has to have an end."""
    if isinstance(part, Choice):
        yield from part.options
    else:
        yield from (part.at(index) for index in range(part.count() or 0))


def endless(space: Space) -> list[str]:
    """What a grid says of keys that have no end of values."""
    found = []
    for key, part in _all_parts(space):
        if isinstance(part, Interval) and part.count() is None:
            few = f"{part.low:g},{part.high:g}" if part.log else f"range({part.low:g}, {part.high:g}, STEP)"
            found.append(
                f"{key}={shown_part(part)} has no end of values, and a grid takes them all; write "
                f"`sweep.strategy=random sweep.budget.max_points=20` (or tpe), or some of them, such as {key}={few}"
            )
    return found


def size(space: Space) -> int | None:
    """Number of points of the grid; None where there is no end of them."""
    product = 1
    for part in space.values():
        count = part.count() if isinstance(part, Interval) else _total(part)
        if count is None:
            return None
        product *= count
    return product


def _total(choice: Choice) -> int | None:
    sizes = [size(inner) for inner in choice.inside.values()]
    known = [one for one in sizes if one is not None]
    return len(choice.options) - len(sizes) + sum(known) if len(known) == len(sizes) else None


def samples(space: Space) -> Iterator[dict[str, Any]]:
    """A few points among which every option and both ends of every interval are found."""
    for index in range(_breadth(space)):
        yield _sample(space, index)


def _breadth(space: Space) -> int:
    widths = [1]
    for part in space.values():
        inside = part.inside.values() if isinstance(part, Choice) else ()
        most = max((_breadth(inner) for inner in inside), default=1)
        widths.append(len(part.options) * most if isinstance(part, Choice) else 2)
    return max(widths)


def _sample(space: Space, index: int) -> dict[str, Any]:
    point: dict[str, Any] = {}
    for key, part in space.items():
        if isinstance(part, Interval):
            point[key] = part.high if index % 2 else part.low
        else:
            again, which = divmod(index, len(part.options))
            point[key] = part.options[which]
            if part.inside:
                point |= _sample(part.inside.get(point[key], {}), again)
    return point


def choices_of_groups(space: Space, groups: Collection[str]) -> list[dict[str, str]]:
    """Every combination of options of groups that a point can have, those of most groups first: of each one is frozen."""
    return sorted(_distinct(_combinations(space, groups)), key=len, reverse=True)


def _combinations(space: Space, groups: Collection[str]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = [{}]
    for key, part in space.items():
        ways: list[dict[str, str]] = [{}]
        if isinstance(part, Choice) and (key in groups or part.inside):
            ways = [
                {**({key: option} if key in groups else {}), **inner}
                for option in part.options
                for inner in (_combinations(part.inside.get(option, {}), groups) if part.inside else [{}])
            ]
        found = [{**one, **other} for one in found for other in _distinct(ways)]
    return found


def _distinct(found: list[dict[str, str]]) -> list[dict[str, str]]:
    return list({tuple(sorted(one.items())): one for one in found}.values())


def keys(space: Space) -> list[str]:
    """Every key that varies, those that an option brings along among them."""
    return list(dict.fromkeys(key for key, _ in _all_parts(space)))


def _all_parts(space: Space) -> Iterator[tuple[str, Dimension]]:
    for key, part in space.items():
        yield key, part
        for inner in part.inside.values() if isinstance(part, Choice) else ():
            yield from _all_parts(inner)


def is_conditional(space: Space) -> bool:
    """Whether some keys are there only with an option of another."""
    return any(isinstance(part, Choice) and part.inside for part in space.values())


def overlaps(space: Space, groups: Collection[str]) -> list[str]:
    """Keys that one point would have twice, or that hold another."""
    problems = [
        f"{key} stands in the space more than once for the same point; leave one of them"
        for key, count in _most(space).items()
        if count > 1
    ]
    known = keys(space)
    return problems + [
        f"{inner} is a part of {outer}, and both stand in the space; leave one of them"
        for outer in known
        for inner in known
        if inner.startswith(f"{outer}.") and outer not in groups
    ]


def _most(space: Space) -> Counter[str]:
    """How often a key can stand in one point."""
    count = Counter(space.keys())
    for part in space.values():
        most: Counter[str] = Counter()
        for inner in part.inside.values() if isinstance(part, Choice) else ():
            most |= _most(inner)
        count += most
    return count


def rewritten(space: Space, key: str, rewrite: Callable[[Dimension], Space]) -> Space:
    """The space with something else in every place where a key stands."""
    found: Space = {}
    for name, part in space.items():
        if name == key:
            found |= rewrite(part)
        elif isinstance(part, Choice):
            inside = {option: rewritten(inner, key, rewrite) for option, inner in part.inside.items()}
            found[name] = replace(part, inside={option: inner for option, inner in inside.items() if inner})
        else:
            found[name] = part
    return found


def varied(space: Space, key: str, new: Dimension, join: Callable[[Dimension, Dimension], Dimension]) -> Space:
    """The space with a key that takes further values, or others: where it stands, else at the end.

    Args:
        space: as it was.
        key: of the configuration.
        new: what it may be from now on.
        join: makes one of what stood there and what is new.
    """
    if key not in keys(space):
        return {**space, key: new}
    return rewritten(space, key, lambda old: {key: join(old, new)})


def fixed(space: Space, key: str, value: Any) -> Space:
    """The space without a key; what its value brings along stays, in its place."""

    def brought_along(old: Dimension) -> Space:
        inside = old.inside if isinstance(old, Choice) else {}
        return next((inner for option, inner in inside.items() if option == value), {})

    return rewritten(space, key, brought_along)


def replaced(old: Dimension, new: Dimension) -> Dimension:
    """The new values; options that stay bring along what they brought."""
    if not isinstance(old, Choice) or not isinstance(new, Choice) or not old.inside:
        return new
    return replace(new, inside={option: inner for option, inner in old.inside.items() if option in new.options})


def joined(old: Dimension, new: Dimension) -> Dimension:
    """The old values and the new; an interval without end gives way to the new one."""
    if any(isinstance(part, Interval) and part.count() is None for part in (old, new)):
        return new
    known, inside = list(values(old)), old.inside if isinstance(old, Choice) else {}
    return Choice((*known, *(value for value in values(new) if not _is_in(value, known))), inside)


def _is_in(value: Any, known: Collection[Any]) -> bool:
    """True and 1 are told apart."""
    return any(value == one and isinstance(value, bool) is isinstance(one, bool) for one in known)


def repeated(options: Collection[Any]) -> list[Any]:
    """The options that stand there more than once."""
    listed = list(options)
    return [option for index, option in enumerate(listed) if _is_in(option, listed[:index])]


def as_yaml(space: Space) -> dict[str, Any]:
    """The space in plain values, which `parse` reads without a grammar."""
    return {key: _part_as_yaml(part) for key, part in space.items()}


def _part_as_yaml(part: Dimension) -> Any:
    if isinstance(part, Choice):
        if part.inside:
            return {option: as_yaml(part.inside.get(option, {})) for option in part.options}
        return list(part.options)
    told = {"low": part.low, "high": part.high, "log": part.log, "whole": part.whole, "step": part.step}
    return {key: value for key, value in told.items() if key in ("low", "high") or value}


def shown_part(part: Dimension) -> str:
    """A part as one writes it in the grammar of sweeps."""
    if isinstance(part, Choice):
        return ",".join(map(str, part.options))
    if part.step is not None:
        return f"range({part.low:g}, {part.high:g}+, {part.step:g})"
    text = f"interval({part.low:g}, {part.high:g})"
    text = f"int({text})" if part.whole else text
    return f"tag(log, {text})" if part.log else text


def interval_fault(part: Interval) -> str | None:
    """What is wrong with an interval, and the way out."""
    if not (math.isfinite(part.low) and math.isfinite(part.high)):
        return "has an end that is no finite number; write one"
    if part.low >= part.high:
        return "has nothing between its ends; put the smaller number first"
    if part.log and part.low <= 0:
        return "has no logarithm at its lower end; write an end above 0, or leave the tag out"
    if part.step is not None and (part.step <= 0 or part.log):
        return "has steps that are even and more than 0; leave log out, or the step"
    if part.whole and any(bound != int(bound) for bound in (part.low, part.high, part.step or 1)):
        return "is one of whole numbers; write whole ends"
    return None
