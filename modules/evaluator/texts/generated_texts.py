"""What evaluators of generated texts have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modules.data.base import Batch, Data, HasReferences, InputReader, Pair, Split, Tensors
from modules.evaluator.base import Prediction
from modules.evaluator.texts.generation import (
    SearchOptions,
    generate,
    list_too_small,
    select_rows,
    take_source,
    to_device_of,
)


class GeneratedTexts(ABC):
    """Generates a text for each input, and compares it with the references of the input.

    A subclass counts (`count_batch`) and computes metrics from the sums of the counts (`compute_counts`).
    """

    num_counts: int
    """Numbers that `count_batch` returns."""
    noun: str
    """What a generated text is, such as "translation": its name in artifacts and predictions, with an "s" for the file."""
    example_data = "multi30k"
    """A data set with such texts, for messages."""

    def __init__(self, search: SearchOptions, num_examples: int | None, num_examples_logged: int) -> None:
        """
        Args:
            search: how the best text is found.
            num_examples: the first inputs of the validation split are evaluated; null: all. Of the test split it is all.
            num_examples_logged: texts that are shown.

        Raises:
            ValueError: a value is too small.
        """
        problems = search.list_problems() + list_too_small(
            ("num_examples", num_examples, 1, "write the number of pairs, or null for all"),
            ("num_examples_logged", num_examples_logged, 0, "write 0, which shows none, or more"),
        )
        if problems:
            raise ValueError(". ".join(problems))
        self.search, self.num_examples, self.num_examples_logged = search, num_examples, num_examples_logged

    @abstractmethod
    def count_batch(self, texts: Sequence[str], pairs: Sequence[Pair]) -> Sequence[float]:
        """Return ``num_counts`` numbers that add up over batches.

        Args:
            texts: generated, at least one.
            pairs: the references of each.
        """

    @abstractmethod
    def compute_counts(self, counts: Tensor) -> dict[str, float]:
        """Compute the metrics from the sums of the counts, float64 [num_counts]."""

    def setup(self, data: Data) -> None:
        self.data = self.check_data(data)

    def update_with_model(self, model: nn.Module, batch: Batch) -> Tensor:
        """Generate the texts of a batch.

        Returns:
            float64 [1 + num_counts]: number of pairs, and the counts.

        Raises:
            ValueError: the model cannot generate text.
        """
        source, pairs = self.select_pairs(batch)
        counts: Sequence[float] = [0.0] * self.num_counts
        if pairs:
            counts = self.count_batch(self.generate(model, source, self.data), pairs)
        return torch.tensor([len(pairs), *counts], dtype=torch.float64, device=batch[1][1].device)

    def select_pairs(self, batch: Batch) -> tuple[Tensors, list[Pair]]:
        """Return the inputs of a batch that are evaluated, without the target tokens, and their pairs."""
        inputs, targets = batch
        assert not isinstance(targets, Tensor), "data with references have two targets"
        pairs = [self.data.pair(number) for number in targets[1].tolist()]
        is_evaluated = [self._is_evaluated(pair) for pair in pairs]
        rows = torch.tensor(is_evaluated, device=targets[1].device)
        return select_rows(take_source(inputs), rows), [
            pair for pair, each in zip(pairs, is_evaluated, strict=True) if each
        ]

    def compute_with_model(self, model: nn.Module, sums: Tensor) -> dict[str, float]:
        """Compute the metrics of all pairs together.

        Raises:
            ValueError: the sums contain no pair.
        """
        if sums[0] == 0:
            raise ValueError(
                f"{type(self).__name__} wants at least 1 pair, but got 0; evaluate on a split that is not empty"
            )
        return self.compute_counts(sums[1:])

    def artifacts(self, model: nn.Module, split: Split) -> dict[str, bytes]:
        """Return some sources with their references and texts."""
        if (count := min(self.num_examples_logged, len(split))) == 0:
            return {}
        indices = self.choose_shown(count, len(split))
        inputs, targets = split.batch(indices, indices)
        texts = self.generate(model, take_source(inputs), self.data)
        pairs = [self.data.pair(number) for number in targets[1].tolist()]
        shown = "\n".join(map(self._show, pairs, texts))
        return {f"{self.noun}s.txt": shown.encode(), **self.draw(model, take_source(inputs), texts)}

    def choose_shown(self, count: int, num_examples: int) -> Tensor:
        """Return which examples of the split are shown, int64 [count]: the first, unless a subclass chooses others."""
        return torch.arange(count)

    def draw(self, model: nn.Module, source: Tensors, texts: Sequence[str]) -> dict[str, bytes]:
        """Return pictures of the first inputs and their texts, by file name; none unless a subclass makes some."""
        return {}

    def predict(self, model: nn.Module, data: InputReader, inputs: Sequence[str]) -> list[Prediction]:
        """Generate a text for each input."""
        referenced = self.check_data(data)
        predictions = []
        for text in inputs:
            source = to_device_of(take_source(data.read([text])), model)
            (generated,) = self.generate(model, source, referenced)
            predictions.append(Prediction(generated, {self.noun: generated}))
        return predictions

    def check_data(self, data: object) -> HasReferences:
        """Return the data as they are.

        Raises:
            ValueError: they have no references.
        """
        if not isinstance(data, HasReferences):
            raise ValueError(
                f"evaluator {type(self).__name__} wants a data set with a {self.noun} of each input, but {type(data).__name__} "
                f"has none; use data={self.example_data}, or another evaluator"
            )
        return data

    def generate(self, model: nn.Module, source: Tensors, data: HasReferences) -> list[str]:
        """Return a text for each input; see `generation.generate`."""
        return generate(model, source, data, self.search, type(self).__name__)

    def _is_evaluated(self, pair: Pair) -> bool:
        return pair.split != "val" or self.num_examples is None or pair.index < self.num_examples

    def _show(self, pair: Pair, text: str) -> str:
        rows = [("source", pair.source), *(("reference", each) for each in pair.references), (self.noun, text)]
        return "".join(f"{name:<12} {each}\n" for name, each in rows)
