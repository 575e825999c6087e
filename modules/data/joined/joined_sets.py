"""Several classified sets as one, for a model of several tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.data.base import Batch, Data, Split
from modules.data.tensors import check_image_shape, check_split


class JoinedSets:
    """The images of several sets, scaled to one size, each with a class of its own set.

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
            sets: by name; their inputs are images with 1 or 3 channels.
            class_counts: classes of each set, by the same names.
            num_classes: of all sets together.
            num_features: channels * height * width.
            image_shape: [channels, height, width] to which the images of all sets are scaled.

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
        self.image_shape = check_image_shape("JoinedSets", image_shape, num_features)

    def load(self, split: str) -> _JoinedSplit:
        check_split("JoinedSets", split)
        return _JoinedSplit([each.load(split) for each in self.sets.values()], self.starts, self.image_shape)

    def example(self, batch_size: int) -> Batch:
        for name, each in self.sets.items():
            images, classes = each.example(1)
            if not isinstance(classes, Tensor) or not isinstance(images, Tensor) or images.dim() != 4:
                raise ValueError(
                    f"JoinedSets wants sets of images with one class each, but data.sets.{name} is {type(each).__name__}; choose "
                    "another set"
                )
            _scale(images, self.image_shape)
        return torch.zeros(batch_size, *self.image_shape), torch.zeros(batch_size, dtype=torch.int64)


class _JoinedSplit:
    """One split of all sets, one after the other."""

    def __init__(self, splits: Sequence[Split], starts: Sequence[int], image_shape: tuple[int, int, int]) -> None:
        self.splits, self.starts, self.image_shape = splits, starts, image_shape
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
                inputs.append(_scale(cast(Tensor, one), self.image_shape))
                classes.append(cast(Tensor, labels) + start)
        order = torch.cat(rows).argsort()
        return torch.cat(inputs)[order], torch.cat(classes)[order]


def _scale(images: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """Scale images, float [batch, 1 or 3, height, width]; grey becomes three equal channels, and colours become their mean.

    Raises:
        ValueError: they have another number of channels.
    """
    channels, *size = image_shape
    if images.shape[1] != channels:
        if {images.shape[1], channels} != {1, 3}:
            raise ValueError(
                f"JoinedSets: a set has images of {images.shape[1]} channels, but data.image_shape={list(image_shape)}; only 1 "
                "and 3 become each other"
            )
        images = images.mean(1, keepdim=True) if channels == 1 else images.expand(-1, 3, -1, -1)
    if list(images.shape[2:]) == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)
