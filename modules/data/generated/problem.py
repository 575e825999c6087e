"""A data set that is made from random numbers: training never repeats an example."""

from __future__ import annotations

import zlib
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map_only

from modules.data.base import Batch, StreamShard, Tensors
from modules.data.sampling.example_random import ExampleRandom, example_seeds
from modules.data.tensors import check_at_least, check_split


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

    def make(self, random: ExampleRandom, count: int, split: str) -> Batch:
        """Make examples.

        Args:
            random: the only source of randomness; what an example is depends on its own numbers only.
            count: how many.
            split: "train", "val" or "test".

        Returns:
            The inputs and the targets; the first dimension of every tensor is the examples.
        """
        raise NotImplementedError(f"{type(self).__name__} has no make(random, count, split)")

    def load(self, split: str) -> Any:
        check_split(type(self).__name__, split)
        if split == "train":
            return _Examples(self)
        seeds = self.seeds(split)
        return FixedExamples(*self.make(ExampleRandom(seeds), len(seeds), split))

    def seeds(self, split: str) -> Tensor:
        """Return the seeds of the validation or test examples, int64 [examples].

        They do not depend on the seed of the run, so that all runs are compared on the same examples.
        """
        return example_seeds(zlib.crc32(split.encode()), 0, self.sizes[split])

    def example(self, batch_size: int) -> Batch:
        batch = self.make(ExampleRandom(example_seeds(0, 0, 1)), 1, "train")
        zeros: Batch = tree_map_only(Tensor, lambda each: each.new_zeros(batch_size, *each.shape[1:]), batch)
        return zeros


class FixedExamples:
    """The examples of a split, in memory."""

    in_memory = True

    def __init__(self, inputs: Tensors, targets: Tensors) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs if isinstance(self.inputs, Tensor) else self.inputs[0])

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        chosen: Batch = tree_map_only(Tensor, lambda each: each.index_select(0, indices), (self.inputs, self.targets))
        return chosen


class _Examples:
    """The stream of training examples."""

    in_memory = True

    def __init__(self, problem: GeneratedProblem) -> None:
        self.problem = problem

    def batch(self, step: int, shard: StreamShard, seed: int) -> Batch:
        seeds = example_seeds(seed, shard.first_example(step), shard.size)
        return self.problem.make(ExampleRandom(seeds), shard.size, "train")
