"""How a parameter server corrects a stale gradient: one that was computed on older weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Correction = Literal["none", "inverse_staleness", "delay_compensation"]
KINDS: tuple[Correction, ...] = ("none", "inverse_staleness", "delay_compensation")

Correct = Callable[[Tensor, Tensor, Tensor, int], float]
"""Changes a gradient in place, and returns the factor of the learning rate.

Arguments: the gradient, the weights it was computed on, the current weights, the number of updates between them.
"""


def make_correction(kind: Correction, strength: float) -> Correct:
    """
    Args:
        kind: name of the correction.
        strength: lambda of the delay compensation.

    Raises:
        ValueError: the correction is unknown.
    """
    if kind == "none":
        return lambda gradient, then, now, staleness: 1.0
    if kind == "inverse_staleness":
        return _inverse_staleness
    if kind == "delay_compensation":
        return lambda gradient, then, now, staleness: _compensate(gradient, then, now, strength)
    raise ValueError(f"ParameterServer knows no correction={kind}; take one of {', '.join(KINDS)}")


def _inverse_staleness(gradient: Tensor, then: Tensor, now: Tensor, staleness: int) -> float:
    """Divide the learning rate by the staleness. Source: Zhang et al. 2016, arXiv:1511.05950, equation 6."""
    return 1.0 / max(1, staleness)


def _compensate(gradient: Tensor, then: Tensor, now: Tensor, strength: float) -> float:
    """Expand the gradient to the current weights by Taylor; the diagonal of the outer product replaces the Hessian.

    Source: Zheng et al. 2017, arXiv:1609.08326, algorithm 2 (DC-ASGD-c).
    """
    torch.addcmul(gradient, gradient * gradient, now - then, value=strength, out=gradient)
    return 1.0
