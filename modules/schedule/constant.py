"""A learning rate that stays."""

from __future__ import annotations

from modules.schedule.base import Schedule


class Constant(Schedule):
    """Leaves the learning rate as the optimizer has it, after a warm-up if there is one."""

    def decay(self, step: int, num_steps: int) -> float:
        return 1.0
