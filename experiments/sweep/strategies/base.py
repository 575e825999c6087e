"""The contract of a strategy: which points of the search space a sweep tries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from experiments.sweep.space import Space


@dataclass(frozen=True)
class PointResult:
    """What is known of one point. All its seeds count as one."""

    number: int
    """Points are numbered from 0 in the order in which they were added."""
    values: Mapping[str, Any]
    """By key of the configuration."""
    state: Literal["running", "finished", "pruned", "failed"]
    value: float | None = None
    """`sweep.metric` of a finished point: the mean of its seeds."""
    curve: Mapping[int, float] = field(default_factory=dict)
    """By step, the values of the metric that a pruner has judged; empty without a pruner."""


class Strategy:
    """Chooses the next point whenever a worker is free, with all results so far.

    Each worker has a strategy of its own. `tell` receives every point of the sweep, also those of other workers, and all of them
    again after a restart. So what `ask` returns should depend only on the constructor's arguments and on the results that `tell`
    has received; seed random numbers with both. An exception starts no more trials and loses none: the ones that run finish,
    and `lathe resume SWEEP` goes on when the code is corrected.

    Example: it changes one value of the best point so far, for keys with a list of values.

        class Neighbour(Strategy):
            def __init__(self, seed: int = 0) -> None:
                self.seed, self.results = seed, {}

            def tell(self, result):
                self.results[result.number] = result

            def ask(self):
                chance = random.Random(f"{self.seed}/{len(self.results)}")
                finished = [one for one in self.results.values() if one.state == "finished"]
                if not finished:
                    return {key: chance.choice(choice.options) for key, choice in self.space.items()}
                best = (max if self.mode == "max" else min)(finished, key=lambda one: one.value)
                key = chance.choice(list(self.space))
                return {**best.values, key: chance.choice(self.space[key].options)}
    """

    space: Space
    """Set before the first call: by key a `Choice` with ``options``, or an `Interval` with ``low``, ``high``, ``log``,
    ``is_integer`` and ``step``."""
    mode: str
    """Set before the first call: ``max`` or ``min``, which values of the metric are better."""

    def ask(self) -> dict[str, Any]:
        """Choose the next point: a value in the space for each key. It may have been tried before."""
        raise NotImplementedError(f"{type(self).__name__} has no method `ask`")

    def tell(self, result: PointResult) -> None:
        """Take in a point: when it is added, and again when its state or value changes."""
