"""Gradients with noise that falls during the training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor


class Noise:
    """Adds normal noise of the standard deviation ``scale / (1 + step) ** (decay / 2)``.

    Source: Neelakantan et al. 2015, arXiv:1511.06807, equation 1.
    """

    is_component = True

    def __init__(self, scale: float = 0.1, decay: float = 0.55) -> None:
        """
        Args:
            scale: standard deviation in the first step, at least 0.
            decay: at least 0; 0: the noise does not fall.
        """
        for name, value in (("scale", scale), ("decay", decay)):
            if not value >= 0:
                raise ValueError(f"Noise wants {name} of at least 0, but got {value}")
        self.scale, self.decay = scale, decay

    def transform(self, gradients: Mapping[str, Tensor], step: int, generator: Generator) -> None:
        deviation = self.scale / (1 + step) ** (self.decay / 2)
        for gradient in gradients.values():
            gradient.add_(torch.randn(gradient.shape, generator=generator).to(gradient), alpha=deviation)
