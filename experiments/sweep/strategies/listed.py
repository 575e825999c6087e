"""Strategies whose points are known before the first trial runs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from experiments.sweep.space import Space, grid_points
from experiments.sweep.strategies.base import Strategy


class Grid(Strategy):
    """All combinations of the values; the last key changes fastest."""

    is_component = True

    def __init__(self, seed: int = 0, startup_points: int = 10) -> None:
        """
        Args:
            seed, startup_points: not used; every strategy of Lathe takes both.
        """

    def list_points(self, space: Space, count: int | None) -> Iterator[dict[str, Any]]:
        """List the points, at most ``count``."""
        return islice(grid_points(space), count)


class RandomSearch(Strategy):
    """Different random points, which follow from the seed; a larger number begins with the same points."""

    is_component = True

    def __init__(self, seed: int = 0, startup_points: int = 10) -> None:
        """
        Args:
            seed: of the random points.
            startup_points: not used; every strategy of Lathe takes it.
        """
        self.seed = seed

    def list_points(self, space: Space, count: int) -> Iterator[dict[str, Any]]:
        """List ``count`` points, or all if the space has fewer."""
        from experiments.sweep.samplers import draw_random_points

        return iter(draw_random_points(space, count, self.seed))
