"""The contract of an evaluator: sums that add up over batches and ranks, and the metrics computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from modules.data.base import Batch, Data, InputReader, Split, Tensors

OLD_METHODS = {
    "measure": "update", "metrics": "compute", "measure_model": "update_with_model", "model_metrics": "compute_with_model",
    "attach": "setup", "files": "artifacts", "answers": "predict",
}  # fmt: skip
"""Former names of the methods, and their names today."""


class Evaluator(Protocol):
    """Computes metrics from the outputs of a model.

    A class attribute ``headline``, the name of the main metric and whether "max" or "min" is better, lets
    ``checkpoint.best_metric: auto`` choose the best checkpoint.

    Example::

        class MeanAbsoluteError:
            headline = ("mae", "min")

            def update(self, outputs: Tensors, targets: Tensors) -> Tensor:
                error = (outputs - targets).abs().double()
                return torch.stack([error.sum(), torch.tensor(error.numel())])

            def compute(self, sums: Tensor) -> dict[str, float]:
                return {"mae": float(sums[0] / sums[1])}
    """

    def update(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Compute the sums of one batch, float64 [sums]; the engine adds them over batches and ranks."""
        ...

    def compute(self, sums: Tensor) -> dict[str, float]:
        """Compute the metrics as plain numbers, under names such as ``accuracy_top1``; the split is put in front of the name.

        Args:
            sums: float64 [sums], of all batches together.
        """
        ...


@runtime_checkable
class ModelEvaluator(Protocol):
    """An evaluator that needs the model, not only its outputs: for generation, or to look at weights.

    It works only with engines whose ranks hold the whole model.
    """

    def setup(self, data: Data) -> None:
        """Receive the data set of the training; called once, before the other methods.

        Raises:
            ValueError: the data set does not have what the evaluator needs.
            DataError: a file is missing or damaged.
        """
        ...

    def update_with_model(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute the sums of one batch, as `Evaluator.update`.

        Args:
            model: the whole model, in evaluation mode.
            batch: on the model's device.
        """
        ...

    def compute_with_model(self, model: nn.Module, sums: Tensor) -> dict[str, float]:
        """Compute the metrics, as `Evaluator.compute`; called by every rank, with the same result."""
        ...


@runtime_checkable
class Combines(Protocol):
    """An evaluator that consists of others, by name (`modules.evaluator.several.Several`); it has no sums of its own."""

    evaluators: dict[str, Any]


AnyEvaluator = Evaluator | ModelEvaluator | Combines


def list_evaluators(evaluator: AnyEvaluator) -> dict[str, Evaluator | ModelEvaluator]:
    """The evaluators that an evaluator consists of, by the prefix of their metrics: ``{"top5/": ...}``; alone ``{"": ...}``."""
    if isinstance(evaluator, Combines):
        return {f"{name}/": part for name, part in evaluator.evaluators.items()}
    return {"": evaluator}


@runtime_checkable
class MakesArtifacts(Protocol):
    """An evaluator that also writes files after training: tables, translations, images."""

    def artifacts(self, model: nn.Module, split: Split) -> dict[str, bytes]:
        """Return files by name; they become artifacts of the run. Examples are the first of the split.

        Args:
            model: the whole trained model, in evaluation mode, on the CPU; gradients are off.
            split: the test split. If the data set has ``class_names``, so has the split.
        """
        ...


@dataclass(frozen=True)
class Prediction:
    """The prediction for one input."""

    text: str
    """For people, such as "cat 0.93  dog 0.07". Several lines are printed below the input."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """For programs, as plain JSON values by name; the names ``input`` and ``files`` are reserved."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """By the end of the file name, such as "mask.png"; the name of the input is put in front."""
    score: float | None = None
    """Ranks the inputs of a command: the predictions are printed at the end, the highest score first. None: in their order."""


@runtime_checkable
class Predicts(Protocol):
    """An evaluator that can predict for inputs without targets, for `lathe predict`.

    Its options (the number of classes, the length of a text) are constructor arguments with defaults.
    `lathe predict RUN --set evaluator.KEY=VALUE` changes them.
    """

    def predict(self, model: nn.Module, data: InputReader, inputs: Sequence[str]) -> list[Prediction]:
        """Predict for each input, in order; a prediction does not depend on the other inputs.

        Args:
            model: the whole trained model, in evaluation mode, on its device; gradients are off.
            data: the data set of the training, not loaded; it reads the inputs.
            inputs: texts or paths of images, as `InputReader.takes` says; at most ``batch_size_eval``.

        Raises:
            UserInputError: an input cannot be read.
            DataError: a file of the data set is needed, but missing or damaged.
            ValueError: the evaluator does not fit the data or the model.
        """
        ...


def find_predicting(evaluator: AnyEvaluator) -> Predicts | None:
    """The evaluator, or the first of several, that can predict; None if none can."""
    return next((each for each in list_evaluators(evaluator).values() if isinstance(each, Predicts)), None)


def renamed_methods(evaluator: object) -> list[str]:
    """Problems of an evaluator written for the former contract: each method that has a new name.

    An evaluator with ``update`` or ``update_with_model`` may use a former name for a helper of its own.
    """
    kind = type(evaluator)
    if hasattr(kind, "update") or hasattr(kind, "update_with_model"):
        return []
    return [
        f"evaluator {kind.__name__}: the method `{old}` is now called `{new}`; rename it"
        for old, new in OLD_METHODS.items()
        if callable(getattr(kind, old, None)) and not hasattr(kind, new)
    ]
