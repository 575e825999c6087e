"""A constant learning rate."""

from __future__ import annotations

from modules.schedule.base import Schedule


class Constant(Schedule):
    """Keeps the learning rate of the optimizer, after an optional warm-up."""

    is_component = True

    def decay(self, step: int, num_steps: int) -> float:
        return 1.0
