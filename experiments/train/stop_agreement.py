"""Makes all ranks of a training stop at the same step, although signals reach them at different times."""

from __future__ import annotations

import time
from collections.abc import Callable

from modules.parallel.base import Engine

EXCHANGE_EVERY_S = 0.5


class StopConsensus:
    """Exchanges stop requests between ranks about every 0.5 s: an exchange costs a message, a step may take only 1 ms."""

    def __init__(self, engine: Engine, should_stop: Callable[[], str | None], world_size: int, first_step: int) -> None:
        """
        Args:
            engine: connects the ranks.
            should_stop: returns why this rank should stop, such as "SIGTERM", or None.
            world_size: number of ranks.
            first_step: steps that were done before.
        """
        self.engine, self.should_stop, self.world_size = engine, should_stop, world_size
        self.last_exchange = self.next_exchange = first_step
        self.exchanged_at = time.perf_counter()

    def reason(self, done: int) -> str | None:
        """Return why to stop after a step, None to continue; all ranks return a reason at the same step."""
        own = self.should_stop()
        if self.world_size == 1:
            return own
        if done < self.next_exchange:
            return None
        now = time.perf_counter()
        stride = max(1, int(EXCHANGE_EVERY_S * (done - self.last_exchange) / max(now - self.exchanged_at, 1e-6)))
        answers = self.engine.gather(float(-1 if own else stride))
        self.last_exchange, self.exchanged_at, self.next_exchange = done, now, done + max(1, int(answers[0]))
        stopping = [rank for rank, answer in enumerate(answers) if answer < 0]
        return own or (f"rank {stopping[0]} was asked to stop" if stopping else None)
