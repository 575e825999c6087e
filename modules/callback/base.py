"""The contract of a callback: what runs after steps and evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from modules.task.base import Need


class Callback:
    """Code that runs after each step and each evaluation, on every rank. Its state is in every checkpoint.

    Example::

        class CountClipped(Callback):
            def __init__(self):
                self.num_clipped = 0

            def on_step_end(self, model, done, metrics):
                self.num_clipped += float(metrics["grad_norm"]) > 1

            def state_dict(self):
                return {"num_clipped": self.num_clipped}

            def load_state_dict(self, state):
                self.num_clipped = state["num_clipped"]
    """

    needs: ClassVar[tuple[Need, ...]] = ()
    """``("whole_model",)``: it reads or changes weights, so each rank must have all of them."""

    def on_start(self, model: nn.Module) -> None:
        """Run before the first step of an attempt, and before `load_state_dict`."""

    def on_step_end(self, model: nn.Module, done: int, metrics: Mapping[str, Tensor]) -> None:
        """Run after a step.

        Args:
            model: on its device; a callback may change its weights.
            done: number of steps done.
            metrics: of the step, float [] each, on the device: reading one waits for it.
        """

    def on_evaluation(self, done: int, metrics: Mapping[str, float]) -> str | None:
        """Run after an evaluation on the validation split.

        Args:
            done: number of steps done.
            metrics: such as ``val/loss_nats``.

        Returns:
            Why the training should end now, as a finished run; None to go on.
        """
        return None

    def delivered_weights(self) -> Mapping[str, Tensor] | None:
        """Weights that are evaluated, exported and delivered in place of the trained ones, by name; None: the trained ones."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return the state: tensors, numbers and texts by name, also in lists and maps."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; tensors are on the CPU."""
