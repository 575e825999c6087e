"""The contract of a gradient transform: what happens to the gradients before the optimizer gets them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Generator, Tensor


class GradientTransform(Protocol):
    """Changes the gradients of an update, after they are averaged over micro-batches and replicas and before they are clipped.

    It keeps no state. Example::

        class Sign:
            def transform(self, gradients, step, generator):
                for gradient in gradients.values():
                    gradient.sign_()
    """

    def transform(self, gradients: Mapping[str, Tensor], step: int, generator: Generator) -> None:
        """Change the gradients in place, in the same way on every replica.

        Args:
            gradients: by the name of their parameter, without those that have none; on the model's device, of its shapes.
            step: counted from 0.
            generator: on the CPU, the only source of randomness; it depends on the seed, the step and the phase.
        """
        ...
