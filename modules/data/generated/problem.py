"""A data set that is made from random numbers: training never repeats an example."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from modules.data.base import Batch, StreamShard
from modules.data.sampling.example_random import ExampleRandom, example_seeds
from modules.data.tensors import TensorSplit, check_at_least, check_split


class GeneratedProblem:
    """Examples that a subclass makes. Training examples follow from the seed of the run; those of the other splits are fixed.

    A subclass writes `make`, and calls the constructor.
    """

    def __init__(self, num_val: int, num_test: int) -> None:
        """
        Args:
            num_val: examples of the validation split.
            num_test: examples of the test split.
        """
        check_at_least(type(self).__name__, 1, num_val=num_val, num_test=num_test)
        self.sizes = {"val": num_val, "test": num_test}

    def make(self, random: ExampleRandom, count: int) -> tuple[Tensor, Tensor]:
        """Make examples.

        Args:
            random: the only source of randomness; what an example is depends on its own numbers only.
            count: how many.

        Returns:
            The inputs and the targets; the first dimension of both is the examples.
        """
        raise NotImplementedError(f"{type(self).__name__} has no make(random, count)")

    def load(self, split: str) -> TensorSplit | _Examples:
        check_split(type(self).__name__, split)
        if split == "train":
            return _Examples(self)
        # Not the seed of the run: all runs are compared on the same examples.
        seeds = example_seeds(zlib.crc32(split.encode()), 0, self.sizes[split])
        return TensorSplit(*self.make(ExampleRandom(seeds), len(seeds)))

    def example(self, batch_size: int) -> Batch:
        inputs, targets = self.make(ExampleRandom(example_seeds(0, 0, 1)), 1)
        return tuple(torch.zeros(batch_size, *each.shape[1:], dtype=each.dtype) for each in (inputs, targets))  # type: ignore[return-value]  # of two


class _Examples:
    """The stream of training examples."""

    in_memory = True

    def __init__(self, problem: GeneratedProblem) -> None:
        self.problem = problem

    def batch(self, step: int, shard: StreamShard, seed: int) -> Batch:
        seeds = example_seeds(seed, shard.first_example(step), shard.size)
        return self.problem.make(ExampleRandom(seeds), shard.size)
