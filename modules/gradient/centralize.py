"""Gradients with a mean of zero."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Generator, Tensor


class Centralize:
    """Subtracts from the gradient of each output its mean over the inputs; biases and other vectors stay as they are.

    Source: Yong et al. 2020, arXiv:2004.01461.
    """

    is_component = True

    def transform(self, gradients: Mapping[str, Tensor], step: int, generator: Generator) -> None:
        for gradient in gradients.values():
            if gradient.dim() > 1 and not gradient.is_sparse:
                gradient.sub_(gradient.mean(dim=tuple(range(1, gradient.dim())), keepdim=True))
