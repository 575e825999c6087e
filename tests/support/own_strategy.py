"""A strategy and a pruner of a user's own, as in the docstrings of the contracts, and ones that fail."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from experiments.sweep.pruners.base import Pruner
from experiments.sweep.space import Choice
from experiments.sweep.strategies.base import PointResult, Strategy


class Neighbour(Strategy):
    """Changes one value of the best point so far."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.results: dict[int, PointResult] = {}

    def tell(self, result: PointResult) -> None:
        self.results[result.number] = result

    def ask(self) -> dict[str, Any]:
        chance = random.Random(f"{self.seed}/{len(self.results)}")
        choices = {key: choice.options for key, choice in self.space.items() if isinstance(choice, Choice)}
        finished = [one for one in self.results.values() if one.state == "finished"]
        if not finished:
            return {key: chance.choice(options) for key, options in choices.items()}
        best = (max if self.mode == "max" else min)(finished, key=lambda one: one.value or 0.0)
        key = chance.choice(list(choices))
        return {**best.values, key: chance.choice(choices[key])}


class Faulty(Neighbour):
    """Fails in a way of your choice once a point has finished."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault = fault

    def ask(self) -> dict[str, Any]:
        has_finished = any(one.state == "finished" for one in self.results.values())
        if not has_finished or not self.fault or self.fault == "tell":
            return super().ask()
        if self.fault == "raise":
            raise KeyError("no such key")
        wrong: dict[str, Any] = {"outside": {"optimizer.lr": 7.0}, "missing": {}, "no map": 3, "no JSON": {1: object()}}
        return wrong[self.fault]  # type: ignore[no-any-return]

    def tell(self, result: PointResult) -> None:
        super().tell(result)
        if self.fault == "tell" and result.state == "finished":
            raise KeyError("no such key")


class Worst(Pruner):
    """Stops a point that is worse than all others at the same step."""

    def __init__(self, first_step: int, fails: bool = False) -> None:
        self.first_step, self.fails = first_step, fails

    def should_prune(self, point: PointResult, others: Sequence[PointResult]) -> bool:
        if self.fails:
            raise KeyError("no such key")
        step, value = max(point.curve.items())
        peers = [one.curve[step] for one in others if step in one.curve]
        is_worst = bool(peers) and (value < min(peers) if self.mode == "max" else value > max(peers))
        return step >= self.first_step and is_worst
