"""Exponential decay of the learning rate."""

from __future__ import annotations

from modules.schedule.step import Step


class Exponential(Step):
    """As `Step`, but the learning rate decays continuously, a little in every step."""

    is_component = True

    def decay(self, step: int, num_steps: int) -> float:
        return float(self.decay_factor ** (step / self.decay_every_steps))
