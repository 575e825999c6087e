"""Cosine decay of the learning rate."""

from __future__ import annotations

import math

from modules.schedule.base import Schedule


class Cosine(Schedule):
    """Decays the learning rate along half a cosine. Source: Loshchilov and Hutter 2016, arXiv:1608.03983."""

    is_component = True

    def __init__(self, final_factor: float = 0.0, warmup_steps: int = 0) -> None:
        """
        Args:
            final_factor: factor at the end of the training.
            warmup_steps: steps of the linear warm-up.
        """
        super().__init__(warmup_steps)
        if not 0 <= final_factor <= 1:
            raise ValueError(f"Cosine wants final_factor in [0, 1], but got {final_factor}")
        self.final_factor = final_factor

    def decay(self, step: int, num_steps: int) -> float:
        done = min(1.0, step / num_steps)
        return self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * done)) / 2
