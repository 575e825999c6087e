"""The adding problem: the sum of two marked numbers of a long sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.data.generated.problem import GeneratedProblem
from modules.data.sampling.example_random import ExampleRandom
from modules.data.tensors import check_at_least


class Adding(GeneratedProblem):
    """Sequences of numbers from 0 to 1, of which two are marked, one in each half; the target is their sum.

    A model that always returns 1, the mean, has a mean squared error of 1/6.
    Source: Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735, experiment 4; numbers and marks as in Arjovsky et
    al. 2016, arXiv:1511.06464, section 4.2.
    """

    is_component = True

    def __init__(self, num_steps: int, num_features: int, num_val: int, num_test: int) -> None:
        """
        Args:
            num_steps: length of a sequence, at least 2.
            num_features: 2, the number and its mark.
            num_val: sequences of the validation split.
            num_test: sequences of the test split.
        """
        check_at_least("Adding", 2, num_steps=num_steps)
        if num_features != 2:
            raise ValueError(
                f"Adding has num_features=2, the number and its mark, but got {num_features}; set data.num_features=2"
            )
        self.num_steps = num_steps
        super().__init__(num_val, num_test)

    def make(self, random: ExampleRandom, count: int, split: str) -> tuple[Tensor, Tensor]:
        """Make sequences.

        Returns:
            float [count, num_steps, 2], and the sums, float [count, 1].
        """
        numbers, half = random.uniform(self.num_steps), self.num_steps // 2
        marked = torch.stack([random.integers(half), half + random.integers(self.num_steps - half)], 1)
        marks = torch.zeros_like(numbers).scatter_(1, marked, 1.0)
        return torch.stack([numbers, marks], 2), numbers.gather(1, marked).sum(1, keepdim=True)
