"""A range test of the learning rate."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from modules.callback.base import Callback, Training


class LrFinder(Callback):
    """Suggests a learning rate before the first step: it trains a few steps with rising ones, and then restores everything.

    The suggestion is where the smoothed loss falls fastest. The training itself uses the learning rate of its configuration.
    With ``max_steps=0`` it does not train at all. Source: Smith 2015, arXiv:1506.01186, section 3.3.
    """

    is_component = True
    needs = ("trial_steps",)
    refuses = ("phases", "closure", "collector")

    def __init__(
        self,
        lr_min: float = 1e-6,
        lr_max: float = 1.0,
        num_steps: int = 100,
        metric: str | None = None,
        smoothing: float = 0.9,
    ) -> None:
        """
        Args:
            lr_min: learning rate of the first step.
            lr_max: of the last step; the test ends before if the loss is four times its lowest value.
            num_steps: steps of the test.
            metric: whose curve counts, such as ``loss_nats``; null: the first one whose name has "loss".
            smoothing: what remains of the average of the loss in each step, in [0, 1).
        """
        if not 0 < lr_min < lr_max:
            raise ValueError(f"LrFinder wants 0 < lr_min < lr_max, but got lr_min={lr_min} and lr_max={lr_max}")
        if num_steps < 10:
            raise ValueError(f"LrFinder wants num_steps of at least 10, but got {num_steps}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"LrFinder wants smoothing in [0, 1), but got {smoothing}")
        self.lr_min, self.lr_max, self.num_steps = lr_min, lr_max, num_steps
        self.metric, self.smoothing = metric, smoothing

    def artifacts(self, model: nn.Module, done: int, training: Training) -> Mapping[str, bytes]:
        if done:
            return {}
        rates = np.geomspace(self.lr_min, self.lr_max, self.num_steps).tolist()
        losses, smoothed = self._measure(rates, training)
        suggestion = _suggest(rates, smoothed)
        training.log_params({"lr_finder.suggestion": "none" if suggestion is None else suggestion})
        found = "the loss does not fall" if suggestion is None else f"try optimizer.lr={suggestion:.2g}"
        training.print(f"learning rates from {rates[0]:g} to {rates[max(0, len(losses) - 1)]:.2g} tried: {found}")
        result = {"suggestion": suggestion, "learning_rate": rates[: len(losses)], "loss": losses, "smoothed": smoothed}
        return {
            "learning_rate.png": _draw(rates, losses, smoothed, suggestion),
            "range_test.json": json.dumps(result).encode(),
        }

    def _measure(self, rates: Sequence[float], training: Training) -> tuple[list[float], list[float]]:
        """Losses of the steps, and their moving averages without the bias of the first steps."""
        losses, smoothed, average = list[float](), list[float](), 0.0

        def add(metrics: Mapping[str, float]) -> bool:
            nonlocal average
            loss = metrics[self._find_metric(metrics)]
            if not math.isfinite(loss):
                return False
            average = self.smoothing * average + (1 - self.smoothing) * loss
            losses.append(loss)
            smoothed.append(average / (1 - self.smoothing ** len(losses)))
            return len(losses) <= self.num_steps // 10 or smoothed[-1] <= min(smoothed) + 3 * abs(min(smoothed))

        training.try_steps(rates, add)
        return losses, smoothed

    def _find_metric(self, metrics: Mapping[str, float]) -> str:
        found = self.metric or next((name for name in metrics if "loss" in name), None)
        if found is None or found not in metrics:
            raise ValueError(
                f"LrFinder: metric={self.metric or 'null'} is not among the metrics of a training step; "
                f"use one of {', '.join(metrics)}"
            )
        return found


def _suggest(rates: Sequence[float], smoothed: Sequence[float]) -> float | None:
    """The learning rate at which the loss falls fastest before its lowest value; None if it does not fall."""
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__, default=0)
    slopes = [(smoothed[number + 1] - smoothed[number - 1], number) for number in range(1, lowest)]
    slope, steepest = min(slopes, default=(0.0, 0))
    return rates[steepest] if slope < 0 else None


def _draw(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggestion: float | None
) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), dpi=100, layout="constrained")
    axis = figure.subplots()
    axis.plot(rates[: len(losses)], losses, color="#c5cbd3", label="loss")
    axis.plot(rates[: len(losses)], smoothed, color="#0072b2", label="smoothed")
    if suggestion is not None:
        axis.axvline(suggestion, color="#d55e00", linestyle="--", label=f"suggestion {suggestion:.2g}")
    if smoothed:
        axis.set_ylim(top=max(smoothed) + 0.1 * (max(smoothed) - min(smoothed)))
    axis.set_xscale("log")
    axis.set_xlabel("learning rate")
    axis.set_ylabel("training loss")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
