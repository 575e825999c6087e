"""Several classified sets as one, for a model of several tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor

from modules.data.base import Batch, Data, Split
from modules.data.tensors import check_split


class JoinedSets:
    """The examples of several sets, each with a class of its own set.

    The classes of the first set keep their numbers, those of the next follow. Source: Caruana 1997, doi:10.1023/A:1007379606734.
    """

    is_component = True

    def __init__(
        self,
        sets: Mapping[str, Data],
        class_counts: Mapping[str, int],
        num_classes: int,
        num_features: int,
        image_shape: Sequence[int],
    ) -> None:
        """
        Args:
            sets: by name; their inputs have the same shape.
            class_counts: classes of each set, by the same names.
            num_classes: of all sets together.
            num_features: numbers of an example.
            image_shape: [channels, height, width].

        Raises:
            ValueError: the names or numbers do not fit.
        """
        if not sets or list(sets) != list(class_counts):
            raise ValueError(
                f"JoinedSets wants data.class_counts for the names of data.sets, {list(sets)}, in their order, but got "
                f"{list(class_counts)}"
            )
        if sum(class_counts.values()) != num_classes:
            raise ValueError(
                f"JoinedSets: data.num_classes={num_classes} is not the sum of data.class_counts={dict(class_counts)}; set "
                f"data.num_classes={sum(class_counts.values())}"
            )
        for name, each in sets.items():
            count = getattr(each, "num_classes", class_counts[name])
            if count != class_counts[name]:
                raise ValueError(
                    f"JoinedSets: data.class_counts.{name}={class_counts[name]} is not the {count} classes of "
                    f"data.sets.{name}; set data.class_counts.{name}={count}"
                )
        self.sets, self.starts = dict(sets), [0, *accumulate(class_counts.values())][:-1]
        self.num_features, self.image_shape = num_features, tuple(image_shape)

    def load(self, split: str) -> _JoinedSplit:
        check_split("JoinedSets", split)
        return _JoinedSplit([each.load(split) for each in self.sets.values()], self.starts)

    def example(self, batch_size: int) -> Batch:
        examples = {name: each.example(batch_size) for name, each in self.sets.items()}
        shapes = {name: list(cast(Tensor, inputs).shape[1:]) for name, (inputs, _) in examples.items()}
        if len({tuple(shape) for shape in shapes.values()}) > 1:
            raise ValueError(f"JoinedSets wants sets whose examples have the same shape, but got {shapes}; resize them")
        return next(iter(examples.values()))


class _JoinedSplit:
    """One split of all sets, one after the other."""

    def __init__(self, splits: Sequence[Split], starts: Sequence[int]) -> None:
        self.splits, self.starts = splits, starts
        self.ends = torch.tensor(list(accumulate(len(each) for each in splits)))
        self.in_memory = all(each.in_memory for each in splits)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        owners = torch.searchsorted(self.ends, indices, right=True)
        rows, inputs, classes = list[Tensor](), list[Tensor](), list[Tensor]()
        for number, (split, start) in enumerate(zip(self.splits, self.starts, strict=True)):
            own = (owners == number).nonzero()[:, 0]
            if len(own):
                first = int(self.ends[number]) - len(split)
                one, labels = split.batch(indices[own] - first, seeds[own])
                rows.append(own)
                inputs.append(cast(Tensor, one))
                classes.append(cast(Tensor, labels) + start)
        order = torch.cat(rows).argsort()
        return torch.cat(inputs)[order], torch.cat(classes)[order]
