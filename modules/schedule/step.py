"""Step decay of the learning rate."""

from __future__ import annotations

from modules.schedule.base import Schedule


class Step(Schedule):
    """Multiplies the learning rate by a factor after every ``decay_every_steps``."""

    is_component = True

    def __init__(self, decay_factor: float, decay_every_steps: int, warmup_steps: int = 0) -> None:
        """
        Args:
            decay_factor: the factor, in (0, 1].
            decay_every_steps: counted from the end of the warm-up.
            warmup_steps: steps of the linear warm-up.
        """
        super().__init__(warmup_steps)
        if not 0 < decay_factor <= 1:
            raise ValueError(f"{type(self).__name__} wants decay_factor in (0, 1], but got {decay_factor}")
        if decay_every_steps < 1:
            raise ValueError(
                f"{type(self).__name__} wants decay_every_steps of at least 1, but got {decay_every_steps}"
            )
        self.decay_factor = decay_factor
        self.decay_every_steps = decay_every_steps

    def decay(self, step: int, num_steps: int) -> float:
        return float(self.decay_factor ** (step // self.decay_every_steps))
