"""The contract of a schedule, and the warm-up that all schedules share."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Schedule(ABC):
    """A factor for the learning rate. It depends only on the step, so it has no state to save.

    Example::

        class Linear(Schedule):
            def decay(self, step: int, num_steps: int) -> float:
                return 1.0 - step / num_steps
    """

    def __init__(self, warmup_steps: int = 0) -> None:
        """
        Args:
            warmup_steps: steps in which the factor rises linearly, before `decay` begins.
        """
        if warmup_steps < 0:
            raise ValueError(f"{type(self).__name__} wants warmup_steps of at least 0, but got {warmup_steps}")
        self.warmup_steps = warmup_steps

    def factor(self, step: int, num_steps: int) -> float:
        """Return the factor for one step.

        Args:
            step: counted from 0.
            num_steps: of the whole training.
        """
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return warmup * self.decay(max(0, step - self.warmup_steps), max(1, num_steps - self.warmup_steps))

    @abstractmethod
    def decay(self, step: int, num_steps: int) -> float:
        """Return the factor without warm-up; ``step`` and ``num_steps`` count from the end of the warm-up."""
