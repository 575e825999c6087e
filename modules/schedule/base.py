"""The contract of a schedule, and the warm-up that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Schedule(ABC):
    """A factor on the optimizer's learning rate: a pure function of the step, so that nothing is there to save."""

    def __init__(self, warmup_steps: int = 0) -> None:
        """
        Args:
            warmup_steps: steps over which the factor first rises in a straight line to that of `decay`.
        """
        if warmup_steps < 0:
            raise ValueError(f"{type(self).__name__} wants warmup_steps of at least 0, but got {warmup_steps}")
        self.warmup_steps = warmup_steps

    def factor(self, step: int, num_steps: int) -> float:
        """Factor for one step.

        Args:
            step: counted from 0.
            num_steps: length of the whole training.
        """
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return warmup * self.decay(max(0, step - self.warmup_steps), max(1, num_steps - self.warmup_steps))

    @abstractmethod
    def decay(self, step: int, num_steps: int) -> float:
        """Factor without warm-up, ``step`` and ``num_steps`` counted from its end."""
