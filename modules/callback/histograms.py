"""Histograms of weights and gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from modules.callback.base import Callback, Training
from modules.callback.files import HISTOGRAMS, count_values, draw_histograms, make_histograms


class Histograms(Callback):
    """Counts the values of weights and gradients every few steps, and draws them.

    Gradients are those that the optimizer got: of the whole batch, clipped and transformed. A parameter of a phase that does
    not run in this step has none.
    """

    is_component = True
    needs = ("whole_model", "gradients")

    def __init__(self, every_steps: int = 100, match: Sequence[str] = ("*",), num_bins: int = 40) -> None:
        """
        Args:
            every_steps: steps between two histograms; also before the first step and after the last.
            match: patterns of the names of parameters, such as ``*.weight``.
            num_bins: intervals of a histogram.
        """
        for name, value in (("every_steps", every_steps), ("num_bins", num_bins)):
            if value < 1:
                raise ValueError(f"Histograms wants {name} of at least 1, but got {value}")
        self.every_steps, self.match, self.num_bins = every_steps, tuple(match), num_bins

    def on_start(self, model: nn.Module) -> None:
        names = [name for name, _ in model.named_parameters()]
        for pattern in self.match:
            if not any(fnmatchcase(name, pattern) for name in names):
                shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
                raise ValueError(f"Histograms: match={pattern!r} matches no parameter of the model: {shown}")

    def artifacts(self, model: nn.Module, done: int, training: Training) -> Mapping[str, bytes]:
        if done % self.every_steps and done != training.num_steps:
            return {}
        named = {
            name: each
            for name, each in model.named_parameters()
            if any(fnmatchcase(name, pattern) for pattern in self.match)
        }
        weights = {f"weights/{name}": count_values(each, self.num_bins) for name, each in named.items()}
        gradients = {
            f"gradients/{name}": count_values(each.grad, self.num_bins)
            for name, each in named.items()
            if each.grad is not None
        }
        columns = [weights, gradients] if gradients else [weights]
        return {HISTOGRAMS: make_histograms({**weights, **gradients}), "histograms.png": draw_histograms(columns)}
