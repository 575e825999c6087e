"""A learning rate that falls a little every step."""

from __future__ import annotations

from modules.schedule.step import Step


class Exponential(Step):
    """Multiplies the learning rate by a factor over so many steps, smoothly: `Step` without the stairs."""

    def decay(self, step: int, num_steps: int) -> float:
        return float(self.decay_factor ** (step / self.decay_every_steps))
