"""Autoencoders: multi-layer perceptrons that reduce an example to a short code and restore it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """An encoder with ReLU, a linear code, and a decoder with the same hidden layers in reverse order.

    Source: Hinton and Salakhutdinov 2006, doi:10.1126/science.1127647.
    """

    is_component = True

    def __init__(self, num_features: int, hidden_sizes: Sequence[int], code_size: int) -> None:
        """
        Args:
            num_features: values of an example.
            hidden_sizes: units of the encoder's hidden layers.
            code_size: numbers of a code.
        """
        super().__init__()
        if min(num_features, code_size, *hidden_sizes) < 1:
            raise ValueError(
                f"{type(self).__name__} wants num_features, hidden_sizes and code_size of at least 1, but got {num_features}, "
                f"{list(hidden_sizes)} and {code_size}"
            )
        self.code_size = code_size
        self.encoder = _mlp(num_features, *hidden_sizes, self._num_code_numbers(code_size))
        self.decoder = _mlp(code_size, *reversed(hidden_sizes), num_features)

    def _num_code_numbers(self, code_size: int) -> int:
        """Outputs of the encoder."""
        return code_size

    def codes(self, inputs: Tensor) -> Tensor:
        """Return the codes of examples.

        Args:
            inputs: float [batch, ...], ``num_features`` values per example.

        Returns:
            float [batch, code_size].
        """
        return cast(Tensor, self.encoder(inputs.flatten(1)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the restored examples, float [batch, num_features]; inputs as for `codes`."""
        return cast(Tensor, self.decoder(self.codes(inputs)))


class VariationalAutoencoder(Autoencoder):
    """An autoencoder whose encoder gives the mean and the variance of a code; the decoder gives logits of the pixels.

    Source: Kingma and Welling 2013, arXiv:1312.6114.
    """

    is_component = True

    def _num_code_numbers(self, code_size: int) -> int:
        return 2 * code_size

    def codes(self, inputs: Tensor) -> Tensor:
        """Return the means of the codes, as `Autoencoder.codes`."""
        return super().codes(inputs).chunk(2, dim=1)[0]

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]  # more outputs
        """Draw codes and restore the examples from them.

        Args:
            inputs: float [batch, ...].
            noise: normal numbers, float [batch, code_size]; None: the code is its mean.

        Returns:
            Logits of the pixels, float [batch, num_features]; the mean and the logarithm of the variance of the codes, float
            [batch, code_size] each.
        """
        mean, log_variance = super().codes(inputs).chunk(2, dim=1)
        code = mean if noise is None else mean + noise * torch.exp(log_variance / 2)
        return self.decoder(code), mean, log_variance


def _mlp(*sizes: int) -> nn.Sequential:
    layers = [layer for below, above in pairwise(sizes) for layer in (nn.Linear(below, above), nn.ReLU())]
    return nn.Sequential(*layers[:-1])
