"""The search space of a sweep: the values of each key. Imports neither Hydra nor Optuna."""

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
    """By option, the keys that exist only with that option."""


@dataclass(frozen=True)
class Interval:
    """A number between two bounds, bounds included."""

    low: float
    high: float
    log: bool = False
    """Sample evenly in the logarithm."""
    is_integer: bool = False
    step: float | None = None
    """Distance between two values, from ``low`` on; None: continuous, or 1 for integers."""

    def count(self) -> int | None:
        """Number of values; None if continuous."""
        step = self.step or (1 if self.is_integer else None)
        return None if step is None else int((_exact(self.high) - _exact(self.low)) // _exact(step)) + 1

    def at(self, index: int) -> float:
        """The value at an index, without rounding errors: 0.3, not 0.30000000000000004."""
        value = _exact(self.low) + index * _exact(self.step or 1)
        return int(value) if self.is_integer else float(value)


Dimension: TypeAlias = "Choice | Interval"
Space: TypeAlias = "dict[str, Choice | Interval]"


def _exact(number: float) -> Decimal:
    return Decimal(str(number))


def grid_points(space: Space) -> Iterator[dict[str, Any]]:
    """All points of the grid; the last key changes fastest.

    Raises:
        InputError: a key is continuous.
    """
    if problems := find_unbounded(space):
        raise InputError(problems, "the grid")
    return _points(space)


def _points(space: Space) -> Iterator[dict[str, Any]]:
    if not space:
        yield {}
        return
    key, *others = space
    dimension, rest = space[key], {other: space[other] for other in others}
    for value in list_values(dimension):
        inner = dimension.inside.get(value, {}) if isinstance(dimension, Choice) and dimension.inside else {}
        for within in _points(inner):
            for point in _points(rest):
                yield {key: value, **within, **point}


def list_values(dimension: Dimension) -> Iterator[Any]:
    """All values of a dimension that is not continuous."""
    if isinstance(dimension, Choice):
        yield from dimension.options
    else:
        yield from (dimension.at(index) for index in range(dimension.count() or 0))


def find_unbounded(space: Space) -> list[str]:
    """Problems of a grid over continuous keys."""
    problems = []
    for key, dimension in _all_dimensions(space):
        if isinstance(dimension, Interval) and dimension.count() is None:
            few = (
                f"{dimension.low:g},{dimension.high:g}"
                if dimension.log
                else f"range({dimension.low:g}, {dimension.high:g}, STEP)"
            )
            problems.append(
                f"{key}={format_dimension(dimension)} is continuous, and a grid needs a finite number of values; write "
                f"`sweep.strategy=random sweep.budget.max_points=20` (or tpe), or list some values, such as {key}={few}"
            )
    return problems


def count_points(space: Space) -> int | None:
    """Number of points of the grid; None if a key is continuous."""
    product = 1
    for dimension in space.values():
        count = dimension.count() if isinstance(dimension, Interval) else _total(dimension)
        if count is None:
            return None
        product *= count
    return product


def _total(choice: Choice) -> int | None:
    sizes = [count_points(inner) for inner in choice.inside.values()]
    known = [one for one in sizes if one is not None]
    return len(choice.options) - len(sizes) + sum(known) if len(known) == len(sizes) else None


def sample_points(space: Space) -> Iterator[dict[str, Any]]:
    """A few points that cover every option and both ends of every interval."""
    for index in range(_breadth(space)):
        yield _sample(space, index)


def _breadth(space: Space) -> int:
    widths = [1]
    for dimension in space.values():
        inside = dimension.inside.values() if isinstance(dimension, Choice) else ()
        most = max((_breadth(inner) for inner in inside), default=1)
        widths.append(len(dimension.options) * most if isinstance(dimension, Choice) else 2)
    return max(widths)


def _sample(space: Space, index: int) -> dict[str, Any]:
    point: dict[str, Any] = {}
    for key, dimension in space.items():
        if isinstance(dimension, Interval):
            point[key] = dimension.high if index % 2 else dimension.low
        else:
            rest, which = divmod(index, len(dimension.options))
            point[key] = dimension.options[which]
            if dimension.inside:
                point |= _sample(dimension.inside.get(point[key], {}), rest)
    return point


def combine_group_options(space: Space, groups: Collection[str]) -> list[dict[str, str]]:
    """All combinations of group options that points have, most groups first. A configuration is frozen for each."""
    return sorted(_distinct(_combinations(space, groups)), key=len, reverse=True)


def _combinations(space: Space, groups: Collection[str]) -> list[dict[str, str]]:
    combinations: list[dict[str, str]] = [{}]
    for key, dimension in space.items():
        own: list[dict[str, str]] = [{}]
        if isinstance(dimension, Choice) and (key in groups or dimension.inside):
            own = [
                {**({key: option} if key in groups else {}), **inner}
                for option in dimension.options
                for inner in (_combinations(dimension.inside.get(option, {}), groups) if dimension.inside else [{}])
            ]
        combinations = [{**one, **other} for one in combinations for other in _distinct(own)]
    return combinations


def _distinct(combinations: list[dict[str, str]]) -> list[dict[str, str]]:
    return list({tuple(sorted(one.items())): one for one in combinations}.values())


def list_keys(space: Space) -> list[str]:
    """All keys that vary, including those of one option only."""
    return list(dict.fromkeys(key for key, _ in _all_dimensions(space)))


def _all_dimensions(space: Space) -> Iterator[tuple[str, Dimension]]:
    for key, dimension in space.items():
        yield key, dimension
        for inner in dimension.inside.values() if isinstance(dimension, Choice) else ():
            yield from _all_dimensions(inner)


def is_conditional(space: Space) -> bool:
    """Whether some keys exist only with an option of another key."""
    return any(isinstance(dimension, Choice) and dimension.inside for dimension in space.values())


def find_overlaps(space: Space, groups: Collection[str]) -> list[str]:
    """Problems of keys that one point has twice, or that contain another key."""
    problems = [
        f"{key} is in the space more than once for the same point; remove one"
        for key, count in _most(space).items()
        if count > 1
    ]
    known = list_keys(space)
    return problems + [
        f"{inner} is a part of {outer}, and both are in the space; remove one"
        for outer in known
        for inner in known
        if inner.startswith(f"{outer}.") and outer not in groups
    ]


def _most(space: Space) -> Counter[str]:
    """How often a key can occur in one point."""
    count = Counter(space.keys())
    for dimension in space.values():
        most: Counter[str] = Counter()
        for inner in dimension.inside.values() if isinstance(dimension, Choice) else ():
            most |= _most(inner)
        count += most
    return count


def rewrite(space: Space, key: str, edit: Callable[[Dimension], Space]) -> Space:
    """Replace every dimension of a key."""
    new: Space = {}
    for name, dimension in space.items():
        if name == key:
            new |= edit(dimension)
        elif isinstance(dimension, Choice):
            inside = {option: rewrite(inner, key, edit) for option, inner in dimension.inside.items()}
            new[name] = replace(dimension, inside={option: inner for option, inner in inside.items() if inner})
        else:
            new[name] = dimension
    return new


def set_dimension(space: Space, key: str, new: Dimension, join: Callable[[Dimension, Dimension], Dimension]) -> Space:
    """Set or extend the values of a key; a new key is added at the end.

    Args:
        space: the old space.
        key: of the configuration.
        new: its new dimension.
        join: combines the old dimension with the new one.
    """
    if key not in list_keys(space):
        return {**space, key: new}
    return rewrite(space, key, lambda old: {key: join(old, new)})


def fix_key(space: Space, key: str, value: Any) -> Space:
    """Remove a key that has one value now; the keys that exist only with this value stay."""

    def keys_of_value(old: Dimension) -> Space:
        inside = old.inside if isinstance(old, Choice) else {}
        return next((inner for option, inner in inside.items() if option == value), {})

    return rewrite(space, key, keys_of_value)


def replace_values(old: Dimension, new: Dimension) -> Dimension:
    """The new values; options that were there before keep their own keys."""
    if not isinstance(old, Choice) or not isinstance(new, Choice) or not old.inside:
        return new
    return replace(new, inside={option: inner for option, inner in old.inside.items() if option in new.options})


def join_values(old: Dimension, new: Dimension) -> Dimension:
    """The old values and the new ones; a continuous interval is replaced."""
    if any(isinstance(dimension, Interval) and dimension.count() is None for dimension in (old, new)):
        return new
    known, inside = list(list_values(old)), old.inside if isinstance(old, Choice) else {}
    return Choice((*known, *(value for value in list_values(new) if not _is_in(value, known))), inside)


def _is_in(value: Any, known: Collection[Any]) -> bool:
    """Unlike ``in``, distinguishes True from 1."""
    return any(value == one and isinstance(value, bool) is isinstance(one, bool) for one in known)


def find_repeated(options: Collection[Any]) -> list[Any]:
    """Options that occur more than once."""
    listed = list(options)
    return [option for index, option in enumerate(listed) if _is_in(option, listed[:index])]


def to_yaml(space: Space) -> dict[str, Any]:
    """The space as plain values, which `parse` reads back."""
    return {key: _dimension_to_yaml(dimension) for key, dimension in space.items()}


def _dimension_to_yaml(dimension: Dimension) -> Any:
    if isinstance(dimension, Choice):
        if dimension.inside:
            return {option: to_yaml(dimension.inside.get(option, {})) for option in dimension.options}
        return list(dimension.options)
    values = {
        "low": dimension.low, "high": dimension.high, "log": dimension.log, "integer": dimension.is_integer,
        "step": dimension.step,
    }  # fmt: skip
    return {key: value for key, value in values.items() if key in ("low", "high") or value}


def format_dimension(dimension: Dimension) -> str:
    """A dimension in the grammar of sweeps."""
    if isinstance(dimension, Choice):
        return ",".join(map(str, dimension.options))
    if dimension.step is not None:
        return f"range({dimension.low:g}, {dimension.high:g}+, {dimension.step:g})"
    text = f"interval({dimension.low:g}, {dimension.high:g})"
    text = f"int({text})" if dimension.is_integer else text
    return f"tag(log, {text})" if dimension.log else text


def find_interval_problem(dimension: Interval) -> str | None:
    """What is wrong with an interval, and the fix."""
    if not (math.isfinite(dimension.low) and math.isfinite(dimension.high)):
        return "has a bound that is not finite; write a finite number"
    if dimension.low >= dimension.high:
        return "is empty; write the smaller bound first"
    if dimension.log and dimension.low <= 0:
        return "has a lower bound without a logarithm; write a bound above 0, or remove the tag"
    if dimension.step is not None and (dimension.step <= 0 or dimension.log):
        return "needs a step above 0, and none together with log; remove log or the step"
    if dimension.is_integer and any(
        bound != int(bound) for bound in (dimension.low, dimension.high, dimension.step or 1)
    ):
        return "has integer values; write integers as bounds"
    return None
