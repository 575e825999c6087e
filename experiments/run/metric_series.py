"""The metric streams of a run: what its journals say, each point once, and how two of them part."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.run import journal

Stream = Sequence[tuple[int, float]]
"""Points of one metric: step and value, as they were written."""

REPEATABLE = ("train/", "val/", "test/")
"""What follows from the trial; all else tells how a machine did, and is another every time."""


def read_series(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The repeatable metrics of a run folder, by name, in the order in which they were written."""
    found: dict[str, list[tuple[int, float]]] = {}
    for event in journal.replay(folder):
        if event["event"] == "metrics":
            for name, value in event["metrics"].items():
                if name.startswith(REPEATABLE):
                    found.setdefault(name, []).append((event["step"], value))
    return found


@dataclass(frozen=True)
class Divergence:
    """How one metric of two runs compares, at the steps that both have."""

    name: str
    num_common: int
    """Steps that both have."""
    first_step: int | None
    """Where they part first, by more than the tolerance; None: nowhere."""
    largest: float
    """Largest relative distance; infinite where one is no number and the other is."""
    last: tuple[float, float] | None
    """The values at the last common step."""
    only_in: tuple[int, int]
    """Steps that only the one or only the other has."""


def compare(
    one: Mapping[str, Stream], other: Mapping[str, Stream], *, tolerance: float = 0.0, up_to: int | None = None
) -> list[Divergence]:
    """Hold two runs against each other.

    Args:
        one: by name of the metric.
        other: likewise.
        tolerance: relative distance that counts as equal; 0: bit for bit.
        up_to: last step that is compared; None: all.

    Returns:
        A line for every metric of either, by name.
    """
    return [_part(name, one.get(name, ()), other.get(name, ()), tolerance, up_to) for name in sorted({*one, *other})]


def _part(name: str, one: Stream, other: Stream, tolerance: float, up_to: int | None) -> Divergence:
    first, second = _by_step(one, up_to), _by_step(other, up_to)
    common = [step for step in first if step in second]
    far = {step: distance(first[step], second[step]) for step in common}
    apart = [step for step in common if far[step] > tolerance]
    return Divergence(
        name=name,
        num_common=len(common),
        first_step=min(apart, default=None),
        largest=max(far.values(), default=0.0),
        last=(first[common[-1]], second[common[-1]]) if common else None,
        only_in=(len(first) - len(common), len(second) - len(common)),
    )


def distance(one: float, other: float) -> float:
    """Relative distance of two values: 0 for equal ones (0.0 and -0.0 among them) and for two that are no numbers."""
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    if not (math.isfinite(one) and math.isfinite(other)):
        return math.inf
    return abs(one - other) / max(abs(one), abs(other))


def _by_step(points: Iterable[tuple[int, float]], up_to: int | None) -> dict[int, float]:
    return {step: value for step, value in points if up_to is None or step <= up_to}
