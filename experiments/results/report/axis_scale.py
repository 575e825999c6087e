"""Maps the values of one key to positions on an axis: linear, logarithmic if they span decades, or categorical."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from experiments.core.format import format_value

LOG_RATIO = 10.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""
MAX_TICKS, MAX_CATEGORIES = 6, 12
FEW_DECADES = 2.5
MISSING_POSITION = -0.18
"""Position of a point that does not have the key."""
MAX_LABEL = 16


@dataclass(frozen=True)
class Scale:
    """Positions between 0 and 1 on an axis."""

    kind: Literal["linear", "log", "categorical"]
    low: float
    high: float
    positions: dict[str, float]
    """Of a categorical axis, by the text of the category."""
    ticks: tuple[tuple[float, str], ...]

    def locate(self, value: Any) -> float:
        """Return the position of a value."""
        if self.kind == "categorical":
            return self.positions[_format_category(value)]
        return self._to_fraction(float(value))

    def _to_fraction(self, value: float) -> float:
        low, high = self.low, self.high
        if low == high:
            return 0.5
        if self.kind == "log":
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)


def make_scale(values: Iterable[Any]) -> Scale:
    """Choose the axis for these values; leave missing values out."""
    known = list(values)
    if not known or not all(_is_number(value) for value in known):
        return _make_categorical(known)
    numbers = sorted({float(value) for value in known})
    low, high = numbers[0], numbers[-1]
    if low <= 0 < high and high >= LOG_RATIO * min(number for number in numbers if number > 0):
        # 0 has no logarithm, and on a linear axis the small values would overlap.
        return (
            _make_categorical(sorted(set(known)))
            if len(numbers) <= MAX_CATEGORIES
            else _make_numeric("linear", numbers)
        )
    return _make_numeric("log" if low > 0 and high >= LOG_RATIO * low else "linear", numbers)


def make_metric_scale(values: Iterable[float], mode: str) -> Scale:
    """Choose the axis of a metric, with the best value at its end."""
    numbers = sorted(values)
    kind: Literal["linear", "log"] = "log" if numbers[0] > 0 and numbers[-1] >= LOG_RATIO**2 * numbers[0] else "linear"
    marks = [numbers[0], *_find_round_values(kind, numbers[0], numbers[-1])[1:-1], numbers[-1]]
    ends = (numbers[0], numbers[-1]) if mode == "max" else (numbers[-1], numbers[0])
    bare = Scale(kind, *ends, {}, ())
    return Scale(kind, *ends, {}, tuple((bare._to_fraction(mark), f"{mark:.4g}") for mark in dict.fromkeys(marks)))


def _make_numeric(kind: Literal["linear", "log"], numbers: list[float]) -> Scale:
    bare = Scale(kind, numbers[0], numbers[-1], {}, ())
    is_listed = len(numbers) <= MAX_TICKS and all(float(f"{number:.4g}") == number for number in numbers)
    marks = numbers if is_listed else _find_round_values(kind, numbers[0], numbers[-1])
    ticks = tuple((bare._to_fraction(mark), f"{mark:.4g}") for mark in marks)
    return Scale(kind, numbers[0], numbers[-1], {}, ticks)


def _find_round_values(kind: str, low: float, high: float) -> list[float]:
    """Values for ticks; on a logarithmic axis powers of 10, or 1, 2 and 5 times them if there are few."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    if kind == "linear":
        marks = MaxNLocator(5).tick_values(low, high)
    elif math.log10(high / low) < FEW_DECADES:
        marks = LogLocator(subs=(1.0, 2.0, 5.0), numticks=12).tick_values(low, high)
    else:
        marks = LogLocator(numticks=6).tick_values(low, high)
    slack = (high - low if kind == "linear" else low) * 1e-9
    return [float(mark) for mark in marks if low - slack <= mark <= high + slack] or [low, high]


def thin_ticks(ticks: Sequence[tuple[float, str]], gap: float, char_width: float = 0.0) -> list[tuple[float, str]]:
    """Leave out ticks whose labels would overlap; the first one stays.

    Args:
        ticks: position and label, by position.
        gap: smallest distance between two labels.
        char_width: width of a character, where labels are side by side and not one below the other.
    """
    kept: list[tuple[float, str]] = []
    for position, text in sorted(ticks):
        if not kept or abs(position - kept[-1][0]) >= gap + char_width * (len(text) + len(kept[-1][1])) / 2:
            kept.append((position, text))
    return kept


def _make_categorical(values: list[Any]) -> Scale:
    if values and all(isinstance(value, list) and all(map(_is_number, value)) for value in values):
        values = sorted(values)
    names = list(dict.fromkeys(_format_category(value) for value in values))
    positions = {name: 0.5 if len(names) == 1 else index / (len(names) - 1) for index, name in enumerate(names)}
    every = math.ceil(len(names) / MAX_CATEGORIES) or 1  # 0 names: no run with the key has a result yet
    ticks = tuple((positions[name], shorten(name)) for name in names[::every])
    return Scale("categorical", 0.0, 1.0, positions, ticks)


def _format_category(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else format_value(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def shorten(text: str, most: int = MAX_LABEL) -> str:
    """Cut a text to what fits beside an axis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
