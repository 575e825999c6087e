"""What a parameter server does with a gradient that was computed on older weights than it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Correction = Literal["none", "inverse_staleness", "delay_compensation"]
KINDS: tuple[Correction, ...] = ("none", "inverse_staleness", "delay_compensation")

Correct = Callable[[Tensor, Tensor, Tensor, int], float]
"""Changes a gradient in place, and gives the factor of the learning rate.

Its arguments are the gradient, the weights that it was computed on, the weights now, and the updates between them.
"""


def correction_of(kind: Correction, strength: float) -> Correct:
    """
    Args:
        kind: which.
        strength: of delay compensation, its lambda.

    Raises:
        ValueError: there is no such correction.
    """
    if kind == "none":
        return lambda gradient, then, now, staleness: 1.0
    if kind == "inverse_staleness":
        return _inverse_staleness
    if kind == "delay_compensation":
        return lambda gradient, then, now, staleness: _compensate(gradient, then, now, strength)
    raise ValueError(f"ParameterServer knows no correction={kind}; take one of {', '.join(KINDS)}")


def _inverse_staleness(gradient: Tensor, then: Tensor, now: Tensor, staleness: int) -> float:
    """The learning rate divided by the staleness. Source: Zhang et al. 2016, arXiv:1511.05950, equation 6."""
    return 1.0 / max(1, staleness)


def _compensate(gradient: Tensor, then: Tensor, now: Tensor, strength: float) -> float:
    """A Taylor expansion to the weights as they are now, by the diagonal of the outer product in place of the Hessian.

    Source: Zheng et al. 2017, arXiv:1609.08326, algorithm 2 (DC-ASGD-c).
    """
    torch.addcmul(gradient, gradient * gradient, now - then, value=strength, out=gradient)
    return 1.0
