"""A moving average of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modules.callback.base import Callback


class Ema(Callback):
    """Keeps an exponential moving average of the weights, which is usually better than the last weights.

    Source: Polyak and Juditsky 1992, doi:10.1137/0330046; the bias of the first steps is removed as in Kingma and Ba 2014,
    arXiv:1412.6980, section 3.
    """

    is_component = True
    needs = ("whole_model",)

    def __init__(self, decay: float = 0.999, deliver: bool = True) -> None:
        """
        Args:
            decay: what remains of the average in each step, in [0, 1).
            deliver: evaluate, export and deliver the average; false: only keep it in the checkpoints.
        """
        if not 0 <= decay < 1:
            raise ValueError(f"Ema wants decay in [0, 1), but got {decay}")
        self.decay, self.deliver = decay, deliver
        self.num_steps = 0
        self.sums: dict[str, Tensor] = {}

    def on_start(self, model: nn.Module) -> None:
        self.num_steps = 0
        self.sums = {name: torch.zeros_like(parameter) for name, parameter in _trained(model).items()}

    @torch.no_grad()
    def on_step_end(self, model: nn.Module, done: int, metrics: Mapping[str, Tensor]) -> None:
        self.num_steps += 1
        torch._foreach_lerp_([*self.sums.values()], [*_trained(model).values()], 1 - self.decay)

    def delivered_weights(self) -> Mapping[str, Tensor] | None:
        if not self.deliver or not self.num_steps:
            return None
        return {name: total / (1 - self.decay**self.num_steps) for name, total in self.sums.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"num_steps": self.num_steps, "sums": self.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_steps = int(state["num_steps"])
        for name, total in self.sums.items():
            total.copy_(state["sums"][name])


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
