"""How the ranks of a training agree to stop: at the same step, though each is told at a time of its own."""

from __future__ import annotations

import time
from collections.abc import Callable

from modules.parallel.base import Engine

ASK_EVERY_S = 0.5


class StopConsensus:
    """Asks the other ranks now and then: asking takes a message, and a step may take a millisecond."""

    def __init__(self, engine: Engine, should_stop: Callable[[], str | None], world: int, first_step: int) -> None:
        """
        Args:
            engine: joins the ranks.
            should_stop: why this rank should stop, such as "SIGTERM".
            world: ranks of the training.
            first_step: steps that were done before.
        """
        self.engine, self.should_stop, self.world = engine, should_stop, world
        self.asked = self.due = first_step
        self.asked_at = time.perf_counter()

    def reason(self, done: int) -> str | None:
        """Why to stop after a step, the same on all ranks; None to go on."""
        own = self.should_stop()
        if self.world == 1:
            return own
        if done < self.due:
            return None
        now = time.perf_counter()
        stride = max(1, int(ASK_EVERY_S * (done - self.asked) / max(now - self.asked_at, 1e-6)))
        answers = self.engine.gather(float(-1 if own else stride))
        self.asked, self.asked_at, self.due = done, now, done + max(1, int(answers[0]))
        asked = [rank for rank, answer in enumerate(answers) if answer < 0]
        return own or (f"rank {asked[0]} was asked to stop" if asked else None)
