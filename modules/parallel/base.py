"""The contract of an engine: how one model is trained on one or many devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from modules.data.base import Batch
from modules.evaluator.base import Evaluator
from modules.objective.base import Objective
from modules.schedule.base import Schedule


@dataclass(frozen=True)
class Recipe:
    """What is asked of an engine, whichever it is; all of it stands in the plan."""

    num_steps: int
    num_accumulation: int
    """Micro-batches of one step on this rank; their gradients are averaged."""
    grad_clip_norm: float | None
    precision: Literal["fp32", "bf16"]
    compile: bool
    device: Literal["auto", "cpu", "cuda"]


@dataclass
class Learner:
    """The live parts that learn together."""

    model: nn.Module
    objective: Objective
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    schedule: Schedule


class Engine(Protocol):
    def prepare(self, learner: Learner, recipe: Recipe) -> None:
        """Put the parts on their devices; called once, before anything else."""
        ...

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One update from this rank's share of the global batch.

        Args:
            batch: on the CPU; its first dimension is ``num_accumulation`` micro-batches long.
            step: counted from 0.

        Returns:
            The objective's metrics and ``grad_norm`` (before clipping; only where clipping is on), float [] each, left
            on the device so that reading them is the caller's choice.
        """
        ...

    def evaluate(self, batches: Iterable[Batch], evaluator: Evaluator) -> dict[str, float]:
        """The evaluator's metrics and the objective's mean over all examples, in evaluation mode."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything that the next step depends on into an empty folder, without pickle."""
        ...

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote; the next step is then bit for bit the one that would have come."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """The whole model's weights on the CPU, by name, gathered from all ranks."""
        ...
