"""How the values of one key lie on an axis: as numbers, as logarithms where they span decades, or side by side as words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from experiments.core.format import shown

LOG_RATIO = 10.0
"""Ratio of the largest to the smallest from which an axis is logarithmic."""
MAX_TICKS, MAX_CATEGORIES = 6, 12
MISSING_POSITION = -0.18
"""Where a point lies that does not have the key."""
MAX_LABEL = 16


@dataclass(frozen=True)
class Scale:
    """Positions between 0 and 1 on an axis."""

    kind: str
    """numbers, logarithms or words."""
    low: float
    high: float
    places: dict[str, float]
    """Of words, by what is shown of them."""
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: Any) -> float:
        """Where a value lies."""
        if self.kind == "words":
            return self.places[_format_category(value)]
        return self._share(float(value))

    def _share(self, value: float) -> float:
        low, high = self.low, self.high
        if low == high:
            return 0.5
        if self.kind == "logarithms":
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)


def make_scale(values: Iterable[Any]) -> Scale:
    """The axis on which these values lie, without those that are missing."""
    known = list(values)
    if not known or not all(_is_number(value) for value in known):
        return _make_categorical(known)
    numbers = sorted({float(value) for value in known})
    low, high = numbers[0], numbers[-1]
    if low <= 0 < high and high >= LOG_RATIO * min(number for number in numbers if number > 0):
        # 0 has no logarithm, and beside it the small ones would fall together.
        return (
            _make_categorical(sorted(set(known)))
            if len(numbers) <= MAX_CATEGORIES
            else _make_numeric("numbers", numbers)
        )
    return _make_numeric("logarithms" if low > 0 and high >= LOG_RATIO * low else "numbers", numbers)


def make_metric_scale(values: Iterable[float], mode: str) -> Scale:
    """The axis of a metric, with the best at its end."""
    numbers = sorted(values)
    kind = "logarithms" if numbers[0] > 0 and numbers[-1] >= LOG_RATIO**2 * numbers[0] else "numbers"
    marks = [numbers[0], *_find_round_values(kind, numbers[0], numbers[-1])[1:-1], numbers[-1]]
    ends = (numbers[0], numbers[-1]) if mode == "max" else (numbers[-1], numbers[0])
    bare = Scale(kind, *ends, {}, ())
    return Scale(kind, *ends, {}, tuple((bare._share(mark), f"{mark:.4g}") for mark in dict.fromkeys(marks)))


def _make_numeric(kind: str, numbers: list[float]) -> Scale:
    bare = Scale(kind, numbers[0], numbers[-1], {}, ())
    marks = numbers if len(numbers) <= MAX_TICKS else _find_round_values(kind, numbers[0], numbers[-1])
    ticks = tuple((bare._share(mark), f"{mark:.4g}") for mark in marks)
    return Scale(kind, numbers[0], numbers[-1], {}, ticks)


def _find_round_values(kind: str, low: float, high: float) -> list[float]:
    from matplotlib.ticker import LogLocator, MaxNLocator

    locator = MaxNLocator(5) if kind == "numbers" or high / low < 100 else LogLocator(numticks=6)
    marks = [float(mark) for mark in locator.tick_values(low, high)]
    slack = (high - low) * 1e-9
    return [mark for mark in marks if low - slack <= mark <= high + slack] or [low, high]


def _make_categorical(values: list[Any]) -> Scale:
    if values and all(isinstance(value, list) and all(map(_is_number, value)) for value in values):
        values = sorted(values)
    names = list(dict.fromkeys(_format_category(value) for value in values))
    places = {name: 0.5 if len(names) == 1 else index / (len(names) - 1) for index, name in enumerate(names)}
    every = math.ceil(len(names) / MAX_CATEGORIES) or 1  # no run with such a key has a result yet
    ticks = tuple((places[name], shorten(name)) for name in names[::every])
    return Scale("words", 0.0, 1.0, places, ticks)


def _format_category(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else shown(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def shorten(text: str, most: int = MAX_LABEL) -> str:
    """A text cut to what fits beside an axis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
