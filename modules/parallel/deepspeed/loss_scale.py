"""Loss scaling, which keeps small fp16 gradients above zero. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping

START, GROWTH, BACKOFF, GROWTH_INTERVAL = 2.0**16, 2.0, 0.5, 2000


class LossScale:
    """Changes like the scale of `torch.amp.GradScaler`, for an optimizer that unscales and skips steps itself; same state format.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2.
    """

    def __init__(self) -> None:
        self.value = START
        self._good_steps = 0

    def update(self, overflow: bool) -> None:
        """Lower the scale after a skipped step; raise it after many good steps."""
        self._good_steps = 0 if overflow else self._good_steps + 1
        if overflow:
            self.value *= BACKOFF
        elif self._good_steps == GROWTH_INTERVAL:
            self.value *= GROWTH
            self._good_steps = 0

    def state_dict(self) -> dict[str, float]:
        return {
            "scale": self.value,
            "growth_factor": GROWTH,
            "backoff_factor": BACKOFF,
            "growth_interval": GROWTH_INTERVAL,
            "_growth_tracker": self._good_steps,
        }

    def load_state_dict(self, saved: Mapping[str, float]) -> None:
        self.value, self._good_steps = float(saved["scale"]), int(saved["_growth_tracker"])
