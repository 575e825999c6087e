"""Ends a training that no longer improves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from modules.callback.base import Callback


class EarlyStopping(Callback):
    """Ends the training, as a finished run, after several evaluations without a better value of a metric."""

    is_component = True

    def __init__(
        self, metric: str, mode: Literal["max", "min"] = "min", patience: int = 3, min_change: float = 0.0
    ) -> None:
        """
        Args:
            metric: of the evaluation, such as val/loss_nats.
            mode: whether a larger or a smaller value is better.
            patience: evaluations in a row without a better value.
            min_change: by how much a value must be better than the best so far to count.
        """
        if patience < 1:
            raise ValueError(f"EarlyStopping wants patience of at least 1, but got {patience}")
        if not min_change >= 0:
            raise ValueError(f"EarlyStopping wants min_change of at least 0, but got {min_change}")
        self.metric, self.mode, self.patience, self.min_change = metric, mode, patience, min_change
        self.best: float | None = None
        self.num_worse = 0

    def on_evaluation(self, done: int, metrics: Mapping[str, float]) -> str | None:
        if self.metric not in metrics:
            raise ValueError(
                f"EarlyStopping: {self.metric} is not a metric of this run; use one of {', '.join(sorted(metrics))}"
            )
        value = metrics[self.metric]
        if not math.isnan(value) and (self.best is None or self._gain(value) > self.min_change):
            self.best, self.num_worse = value, 0
            return None
        self.num_worse += 1
        if self.num_worse < self.patience:
            return None
        return f"{self.metric} has not improved in {self.num_worse} evaluations; its best value is {self.best:.6g}"

    def _gain(self, value: float) -> float:
        assert self.best is not None
        return value - self.best if self.mode == "max" else self.best - value

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "num_worse": self.num_worse}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.num_worse = state["best"], int(state["num_worse"])
