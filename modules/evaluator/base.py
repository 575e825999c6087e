"""The contract of an evaluator: sums that add up over batches and ranks, and the metrics that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from modules.data.base import Batch, Data, InputReader, Split, Tensors


class Evaluator(Protocol):
    def measure(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Sums of one batch, float64 [sums]; adding those of two batches gives those of both together."""
        ...

    def metrics(self, sums: Tensor) -> dict[str, float]:
        """Metrics of everything that was summed, under names such as ``accuracy_top1`` (the split is put before).

        Args:
            sums: float64 [sums].
        """
        ...


@runtime_checkable
class ModelEvaluator(Protocol):
    """An evaluator that outputs are not enough for: it lets the model write, or looks at its weights.

    Its two methods are those of `Evaluator` with the model at hand. Only an engine serves it whose ranks have all of it.
    """

    def attach(self, data: Data) -> None:
        """Told the data set of the training, once and before all else: its words, say.

        Raises:
            ValueError: it lacks what is asked.
            DataError: a file is missing or damaged.
        """
        ...

    def measure_model(self, model: nn.Module, batch: Batch) -> Tensor:
        """As `Evaluator.measure`.

        Args:
            model: the training's, whole and in evaluation mode.
            batch: on the model's device.
        """
        ...

    def model_metrics(self, model: nn.Module, sums: Tensor) -> dict[str, float]:
        """As `Evaluator.metrics`; every rank calls it and gets the same."""
        ...


AnyEvaluator = Evaluator | ModelEvaluator


@runtime_checkable
class Shows(Protocol):
    """An evaluator that has more to show than numbers: tables, translations, pictures."""

    def files(self, model: nn.Module, split: Split) -> dict[str, bytes]:
        """Files to look at, by name; they become artifacts of the run. One that shows examples takes the first of the split.

        Args:
            model: trained, whole and in evaluation mode, on the CPU; gradients are off.
            split: the test split.
        """
        ...


@dataclass(frozen=True)
class Answer:
    """What a model makes of one input."""

    text: str
    """For a person: "cat 0.93  dog 0.07"; what stands in several lines is shown below its input."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """The same for a program, as plain JSON values by name; ``input`` and ``files`` are names of who asks."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """By the end of their names, such as "mask.png", before which the input's is put."""


@runtime_checkable
class Answers(Protocol):
    """An evaluator that can say what a model makes of inputs whose targets nobody knows.

    How it says that (how many classes, how long a text) are arguments of its constructor that have defaults: no YAML names
    them, and `lathe predict RUN --set evaluator.KEY=VALUE` changes them.
    """

    def answers(self, model: nn.Module, data: InputReader, given: Sequence[str]) -> list[Answer]:
        """An answer for each, in this order; it does not depend on what else is asked.

        Args:
            model: trained, whole and in evaluation mode, on the device that computes; gradients are off.
            data: that of the training, of which nothing was loaded; it reads what is given.
            given: lines of text or paths of images, as `InputReader.takes` says; a few, at most ``batch_size_eval``.

        Raises:
            GivenError: one of them is no input.
            DataError: a file of the data set is needed, and missing or damaged.
            ValueError: the data or the model is of another kind than what is answered for.
        """
        ...
