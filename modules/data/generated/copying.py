"""The copying problem: repeat symbols after a long pause."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from modules.data.generated.problem import GeneratedProblem
from modules.data.sampling.example_random import ExampleRandom
from modules.data.tensors import check_at_least


class Copying(GeneratedProblem):
    """Symbols, a pause, and a sign after which the model has to repeat the symbols in their order.

    The targets are the symbols alone; the model says nothing before the sign. Chance is ``1 / num_classes``.
    Source: Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; form of Arjovsky et al. 2016, arXiv:1511.06464,
    section 4.1.
    """

    is_component = True

    def __init__(
        self, num_pause_steps: int, num_symbols: int, num_classes: int, num_features: int, num_val: int, num_test: int
    ) -> None:
        """
        Args:
            num_pause_steps: time steps between the last symbol and the sign.
            num_symbols: length of what has to be repeated.
            num_classes: different symbols.
            num_features: ``num_classes + 2``: one for each symbol, the pause and the sign.
            num_val: sequences of the validation split.
            num_test: sequences of the test split.
        """
        check_at_least("Copying", 0, num_pause_steps=num_pause_steps)
        check_at_least("Copying", 1, num_symbols=num_symbols, num_classes=num_classes)
        if num_features != num_classes + 2:
            raise ValueError(
                f"Copying wants data.num_features={num_classes + 2}, for {num_classes} symbols, the pause and the sign, but got "
                f"{num_features}"
            )
        self.num_pause_steps, self.num_symbols, self.num_classes = num_pause_steps, num_symbols, num_classes
        super().__init__(num_val, num_test)

    def make(self, random: ExampleRandom, count: int, split: str) -> tuple[Tensor, Tensor]:
        """Make sequences.

        Returns:
            One-hot, float [count, num_pause_steps + 2 * num_symbols, num_classes + 2], in which the last ``num_symbols`` time
            steps have the sign and then pauses; and the symbols, int64 [count, num_symbols].
        """
        symbols = random.integers(self.num_classes, self.num_symbols)
        inputs = pad(symbols, (0, self.num_pause_steps + self.num_symbols), value=self.num_classes)
        inputs[:, self.num_symbols + self.num_pause_steps] = self.num_classes + 1
        return one_hot(inputs, self.num_classes + 2).to(torch.float32), symbols
