"""The contract of a task: the computation of one training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from modules.data.base import Tree
from modules.objective.base import Objective

Need = Literal[
    "inputs", "whole_model", "phases", "closure", "collector", "per_example_gradients", "gradients", "trial_steps"
]
"""What a task asks of an engine, beyond a mean loss of the model's outputs and the targets:

inputs: the loss also sees the inputs, or calls the model more than once.
whole_model: the loss calls parts of the model, or differentiates with respect to its inputs.
phases: several updates within a step, each with its own parameters and optimizer.
closure: an optimizer that computes the loss several times within an update, such as L-BFGS.
collector: the data comes from the model.
per_example_gradients: a gradient for each example.
gradients: the whole gradients on each rank, before the optimizer gets them.
trial_steps: steps with other learning rates before the training, which leave no trace; for callbacks.
"""


@dataclass(frozen=True)
class Phase:
    """One update within a step: of which parameters, and how often."""

    name: str = "train"
    parameters: tuple[str, ...] = ("",)
    """Beginnings of the names of its parameters. No parameter belongs to two phases."""
    every_steps: int = 1
    """The phase runs in each step that this number divides, and in step 0."""


_GENERATOR = torch.Generator()
"""Seeded before each use; a new one for each draw takes longer than a small draw (12 us, 2026-11-30)."""


@dataclass
class StepContext:
    """What a loss may know about the step, and random numbers that do not depend on the layout."""

    step: int
    """Counted from 0."""
    num_steps: int
    """Steps of the whole training."""
    phase: str = "train"
    """Name of the phase whose loss is computed."""
    is_training: bool = True
    """False in an evaluation; gradients are off then, but a loss may switch them on with ``torch.enable_grad``."""
    seed: int = 0
    """Of this step and phase."""
    first_row: int = 0
    """Position of the first example of this micro-batch in the global batch."""
    num_rows: int = 0
    """Examples of the global batch; 0: this micro-batch is all of it."""
    num_draws: int = field(default=0, init=False)

    def randn(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """Draw normal numbers, one row for each example of the micro-batch.

        They are the same for an example of the global batch, however many micro-batches and replicas share it. Torch's global
        generator, which dropout uses, differs between replicas.

        Args:
            shape: first the number of examples of the micro-batch.
            device: of the result.

        Returns:
            float32 of this shape.
        """
        return self._draw(torch.randn, shape, device)

    def rand(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """Draw uniform numbers in [0, 1), as `randn`."""
        return self._draw(torch.rand, shape, device)

    def make_generator(self) -> torch.Generator:
        """Make a generator on the CPU that is the same for all micro-batches and replicas of the step."""
        self.num_draws += 1
        return torch.Generator().manual_seed(self.seed + self.num_draws - 1)

    def _draw(self, draw: Callable[..., Tensor], shape: tuple[int, ...], device: torch.device | str) -> Tensor:
        generator = _GENERATOR.manual_seed(self.seed + self.num_draws)
        self.num_draws += 1
        own = draw(max(self.num_rows, shape[0]), *shape[1:], generator=generator)
        if len(own) > shape[0]:
            own = own[self.first_row : self.first_row + shape[0]]
        if torch.device(device).type != "cuda":
            return own.to(device)
        return own.pin_memory().to(device, non_blocking=True)  # else the copy would wait for the steps before


@dataclass(frozen=True)
class Loss:
    """The loss of a batch."""

    mean: Tensor
    """float []: a mean over what `Task.weight` counts."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """Values worth a curve: means over the same, float [] each, under names such as ``loss_nats``."""


@dataclass(frozen=True)
class Evaluation:
    """What a task computes from a batch of a validation or test split."""

    metrics: Mapping[str, Tensor]
    """Means over what `Task.weight` counts, float [] each."""
    outputs: Any = None
    """Outputs and targets, for an evaluator that compares them. None: only an evaluator that calls the model can be used."""
    targets: Any = None


class Task:
    """The computation of one training step. It knows nothing of ranks, devices, precision, accumulation and checkpoints.

    The engine adds up the losses of micro-batches and replicas, weighted by `weight`, so that a step gives the same gradient in
    every layout. Each phase has an optimizer; a checkpoint holds all of them.

    Example::

        class Autoencoder(Task):
            needs = ("inputs",)

            def loss(self, model, batch, context):
                images, _ = batch
                error = (model(images) - images).square().mean()
                return Loss(error, {"loss": error.detach()})
    """

    needs: ClassVar[tuple[Need, ...]] = ()
    """A plain tuple of names: the plan reads it from the source, without importing the class."""
    objective: Objective
    """The objective of the experiment, which a task may use."""

    def phases(self) -> Sequence[Phase]:
        """Return the updates of a step, in their order; by default one update of all parameters."""
        return (Phase(),)

    def check(self, model: nn.Module, batch: Tree) -> None:
        """Check before training that this task can train a model.

        Args:
            model: untrained, on the CPU; or for a plan on the meta device, without values.
            batch: two examples of zeros.

        Raises:
            ValueError: it cannot.
        """

    def loss(self, model: nn.Module, batch: Tree, context: StepContext) -> Loss:
        """Compute the loss of one micro-batch.

        Args:
            model: the model, or in an engine that wraps it a function with the same call. A task with the need ``whole_model``
                gets the model itself, and may call its parts.
            batch: on the model's device; the first dimension of every tensor is the batch.
            context: of the step.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss(model, batch, context)")

    def weight(self, batch: Tree) -> Tensor | None:
        """Count what the means of `loss` are over, such as the tokens that are not padding: float [], at least 0.

        None: the examples of the batch.
        """
        return None

    def evaluate(self, model: nn.Module, batch: Tree, context: StepContext) -> Evaluation:
        """Evaluate one batch; by default the metrics of all phases' losses, and no outputs.

        Args:
            model: as for `loss`, in evaluation mode.
            batch: of a validation or test split, on the model's device.
            context: with ``is_training=False``.
        """
        metrics: dict[str, Tensor] = {}
        for phase in self.phases():
            metrics |= self.loss(model, batch, replace(context, phase=phase.name)).metrics
        return Evaluation(metrics)


@dataclass(frozen=True)
class Sounds:
    """Samples of sound."""

    waves: Tensor
    """Float [samples, time], from -1 to 1."""
    sample_rate_hz: int


@runtime_checkable
class MakesSamples(Protocol):
    """A task that can show what the model has learned, for ``callback=samples``."""

    def samples(
        self, model: nn.Module, batch: Tree, context: StepContext
    ) -> Mapping[str, Tensor | Sequence[str] | Sounds]:
        """Make samples, such as generated images; gradients are off.

        Args:
            model: the whole model, in evaluation mode.
            batch: the first examples of the validation split, always the same, on the model's device.
            context: with ``is_training=False``; its random numbers are the same at every call.

        Returns:
            By name: images as float [samples, 1 or 3, height, width] from 0 to 1, texts, or sounds.
        """
        ...
