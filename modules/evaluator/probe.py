"""How much the codes of a model say about the classes, which it has not seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modules.data.base import Batch, Data, Split
from modules.evaluator.pictures.codes import draw_exciting, draw_map
from modules.model.base import HasCodes

_CHUNK = 1000
ONE_CLASS = (
    "Probe wants one tensor of inputs and one class per example, but the data set gives others; choose another data set"
)


class Probe:
    """Fits a linear classifier to the codes of a few training examples and measures it on the split.

    Metrics: ``probe_accuracy``; for comparison ``probe_accuracy_pca``, with as many principal components of the training
    inputs instead of codes, and ``probe_accuracy_inputs``, with the inputs themselves.
    Source: Alain and Bengio 2016, arXiv:1610.01644.
    """

    is_component = True
    headline = ("probe_accuracy", "max")

    def __init__(self, num_train: int = 1000, inverse_regularization: float = 0.3) -> None:
        """
        Args:
            num_train: training examples, taken evenly from the split, whose classes the classifier learns.
            inverse_regularization: C of scikit-learn's LogisticRegression, on standardised codes.
        """
        if num_train < 2:
            raise ValueError(f"Probe wants num_train of at least 2, but got {num_train}")
        if not inverse_regularization > 0:
            raise ValueError(f"Probe wants inverse_regularization above 0, but got {inverse_regularization}")
        self.num_train, self.inverse_regularization = num_train, inverse_regularization
        self._data: Data | None = None
        self._labelled: tuple[Tensor, np.ndarray] | None = None
        self._fitted: tuple[Tensor, Any] | None = None
        self._baselines: tuple[Tensor, Tensor, Any, Any] | None = None

    def setup(self, data: Data) -> None:
        self._data, self._labelled, self._fitted, self._baselines = data, None, None, None

    def update_with_model(self, model: nn.Module, batch: Batch) -> Tensor:
        """Count the examples, and those that the classifiers of codes, principal components and inputs get right.

        Raises:
            ValueError: the model has no method ``codes``, or the training examples have no two classes.
        """
        if not isinstance(model, HasCodes):
            raise ValueError(
                f"evaluator Probe wants a model with a method codes(inputs), such as model=autoencoder, but "
                f"{type(model).__name__} has none; choose another evaluator"
            )
        inputs, targets = _check_classes(batch)
        with torch.autocast(inputs.device.type, enabled=False):
            return self._count(model, inputs, targets)

    def _count(self, model: HasCodes, inputs: Tensor, targets: Tensor) -> Tensor:
        train_inputs, classes = self._examples(inputs.device)
        codes = model.codes(train_inputs).float().cpu()
        if not codes.isfinite().all():  # a training that diverged
            return torch.tensor([float(len(targets)), *[torch.nan] * 3], dtype=torch.float64)
        # The weights change between evaluations, but not within one.
        if self._fitted is None or not torch.equal(self._fitted[0], codes):
            self._fitted = codes, self._fit(codes, classes)
        if self._baselines is None:
            mean, components = self._find_components(codes.shape[1])
            flat = train_inputs.cpu().flatten(1)
            self._baselines = (
                mean, components, self._fit((flat - mean) @ components, classes), self._fit(flat, classes),
            )  # fmt: skip
        mean, components, of_components, of_inputs = self._baselines
        flat, true = inputs.cpu().flatten(1), targets.cpu().numpy()
        guesses = (
            self._fitted[1].predict(model.codes(inputs).float().cpu().numpy()),
            of_components.predict(((flat - mean) @ components).numpy()),
            of_inputs.predict(flat.numpy()),
        )
        return torch.tensor([float(len(true)), *(float((each == true).sum()) for each in guesses)], dtype=torch.float64)

    def compute_with_model(self, model: nn.Module, sums: Tensor) -> dict[str, float]:
        count, *hits = sums.tolist()
        names = ("probe_accuracy", "probe_accuracy_pca", "probe_accuracy_inputs")
        return {name: each / count for name, each in zip(names, hits, strict=True)}

    def artifacts(self, model: nn.Module, split: Split) -> dict[str, bytes]:
        """Return a map of the codes of 1,000 examples in the plane, and the examples that excite units most."""
        inputs, targets = _take_evenly(split, _CHUNK)
        assert isinstance(model, HasCodes)
        codes = model.codes(inputs)
        if not codes.isfinite().all():
            return {}
        files = {"map.png": draw_map(codes, targets)}
        if inputs.dim() == 4 and inputs.shape[1] in (1, 3):
            files["exciting.png"] = draw_exciting(codes, inputs)
        return files

    def _train(self) -> Split:
        assert self._data is not None, "setup comes first"
        split = self._data.load("train")
        if not hasattr(split, "__len__"):
            raise ValueError("Probe wants training data of a fixed size, but this data set is a stream")
        return split

    def _examples(self, device: torch.device) -> tuple[Tensor, np.ndarray]:
        if self._labelled is None:
            split = self._train()
            inputs, targets = _take_evenly(split, self.num_train)
            if int(targets.min()) == int(targets.max()):
                raise ValueError(
                    f"Probe wants at least 2 classes in {self.num_train} training examples, taken evenly; raise num_train"
                )
            self._labelled = inputs, targets.numpy()
        inputs, classes = self._labelled
        return inputs.to(device), classes

    def _find_components(self, count: int) -> tuple[Tensor, Tensor]:
        """Mean of the training inputs, float [features], and their principal components, float [features, count]."""
        total, squares, number = torch.zeros(()), torch.zeros(()), 0
        for inputs, _ in _chunks(self._train(), _CHUNK):
            flat = inputs.flatten(1).double()
            total, squares, number = total + flat.sum(0), squares + flat.T @ flat, number + len(flat)
        mean = total / number
        _, vectors = torch.linalg.eigh(squares / number - torch.outer(mean, mean))
        return mean.float(), vectors[:, -count:].float()

    def _fit(self, features: Tensor, classes: np.ndarray) -> Any:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        classifier = LogisticRegression(C=self.inverse_regularization, max_iter=1000)
        return make_pipeline(StandardScaler(), classifier).fit(features.numpy(), classes)


def _take_evenly(split: Split, count: int) -> tuple[Tensor, Tensor]:
    """Examples from the whole split, which may be sorted by class."""
    count = min(count, len(split))
    return _fetch(split, torch.arange(count) * len(split) // count)


def _fetch(split: Split, indices: Tensor) -> tuple[Tensor, Tensor]:
    return _check_classes(split.batch(indices, torch.zeros_like(indices)))


def _check_classes(batch: Batch) -> tuple[Tensor, Tensor]:
    """
    Raises:
        ValueError: the batch has not one class for each example.
    """
    inputs, targets = batch
    if (
        not isinstance(inputs, Tensor)
        or not isinstance(targets, Tensor)
        or targets.dim() != 1
        or targets.is_floating_point()
    ):
        raise ValueError(ONE_CLASS)
    return inputs, targets


def _chunks(split: Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The examples of a split in order."""
    for first in range(0, len(split), size):
        yield _fetch(split, torch.arange(first, min(first + size, len(split))))
