"""A discrete-event simulation: a clock, a queue, and a resource that is shared evenly."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

Act = Callable[[], Any]


class SimulatedClock:
    """Runs scheduled actions in the order of their times, and actions of the same time in the order of scheduling."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._due: list[tuple[float, int, Act]] = []
        self._numbers = itertools.count()

    def after(self, delay_s: float, act: Act) -> None:
        """Schedule an action."""
        heapq.heappush(self._due, (self.now_s + delay_s, next(self._numbers), act))

    def run(self, is_over: Callable[[], bool]) -> None:
        """Run actions until ``is_over`` or until none is left."""
        while self._due and not is_over():
            self.now_s, _, act = heapq.heappop(self._due)
            act()


class Use:
    """Statistics of the use of a resource: the quantities of Little's law."""

    def __init__(self, clock: SimulatedClock) -> None:
        self.clock = clock
        self.inside = 0
        self.left = 0
        self.busy_s = 0.0
        """Time in which the resource is in use."""
        self.present_s = 0.0
        """Sum of the times that all users spent inside."""
        self._since_s = 0.0

    def change(self, by: int) -> None:
        """Record that a user enters (1) or leaves (-1)."""
        passed_s = self.clock.now_s - self._since_s
        self.present_s += self.inside * passed_s
        self.busy_s += passed_s if self.inside else 0.0
        self._since_s = self.clock.now_s
        self.inside += by
        self.left += by < 0


class Queue:
    """A first-come, first-served queue: a server's thread that applies gradients."""

    def __init__(self, clock: SimulatedClock, cores: SharedResource | None = None) -> None:
        """
        Args:
            clock: of the simulation.
            cores: shared cores that do the work; None: it has its own core.
        """
        self.clock, self.cores, self.use = clock, cores, Use(clock)
        self._waiting: deque[tuple[float, Act]] = deque()

    def take(self, work_s: float, done: Act) -> None:
        """Do a piece of work after all earlier ones."""
        self.use.change(1)
        self._waiting.append((work_s, done))
        if len(self._waiting) == 1:
            self._begin()

    def _begin(self) -> None:
        work_s, _ = self._waiting[0]
        if self.cores is None:
            self.clock.after(work_s, self._end)
        else:
            self.cores.take(work_s, self._end)

    def _end(self) -> None:
        _, done = self._waiting.popleft()
        self.use.change(-1)
        if self._waiting:
            self._begin()
        done()


class SharedResource:
    """Work that runs concurrently, with equal shares: a network card, or the cores of a machine.

    All pieces progress at the same rate, so the progress of a piece that exists since the start (virtual time) is
    enough. Source: Parekh and Gallager 1993, doi:10.1109/90.234856.
    """

    def __init__(self, clock: SimulatedClock, capacity: float, most: float) -> None:
        """
        Args:
            clock: of the simulation.
            capacity: work per second of all pieces together.
            most: maximum work per second of one piece.
        """
        self.clock, self.capacity, self.most, self.use = clock, capacity, most, Use(clock)
        self._progress = 0.0
        self._at_s = 0.0
        self._pieces: list[tuple[float, int, Act]] = []
        self._numbers = itertools.count()
        self._plan = 0

    def take(self, work: float, done: Act) -> None:
        """Start a piece of work now."""
        self._advance()
        self.use.change(1)
        heapq.heappush(self._pieces, (self._progress + work, next(self._numbers), done))
        self._look_ahead()

    def _rate(self) -> float:
        return min(self.most, self.capacity / len(self._pieces))

    def _advance(self) -> None:
        if self._pieces:
            self._progress += (self.clock.now_s - self._at_s) * self._rate()
        self._at_s = self.clock.now_s

    def _look_ahead(self) -> None:
        """Schedule the end of the piece that finishes first, if no other piece starts before."""
        self._plan += 1
        if self._pieces:
            left = max(0.0, self._pieces[0][0] - self._progress)
            self.clock.after(left / self._rate(), partial(self._end, self._plan))

    def _end(self, plan: int) -> None:
        if plan != self._plan:  # another piece started in between
            return
        self._at_s, self._progress = self.clock.now_s, self._pieces[0][0]
        ended = []
        while self._pieces and self._pieces[0][0] <= self._progress * (1 + 1e-12):
            ended.append(heapq.heappop(self._pieces)[2])
            self.use.change(-1)
        self._look_ahead()
        for done in ended:
            done()
