"""Causal attention with rotary positions and grouped keys and values."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WAVE_BASE = 10_000.0  # wavelengths are from 2 pi to nearly 2 pi x this, as in the paper


class CausalAttention(nn.Module):
    """Causal multi-head attention; several query heads may share one head of keys and values.

    Only the size of a head is fixed, so that a slice of the heads also works.
    Source: Vaswani et al. 2017, arXiv:1706.03762; grouped queries: Ainslie et al. 2023, arXiv:2305.13245.
    """

    def __init__(self, hidden_size: int, num_heads: int, num_kv_heads: int) -> None:
        """
        Args:
            hidden_size: features of a token.
            num_heads: query heads.
            num_kv_heads: key and value heads; ``num_heads`` for plain multi-head attention.

        Raises:
            ValueError: the sizes are not divisible.
        """
        super().__init__()
        if hidden_size % (2 * num_heads):
            below = hidden_size - hidden_size % (2 * num_heads)
            tries = " or ".join(str(size) for size in (below, below + 2 * num_heads) if size)
            raise ValueError(
                f"CausalAttention wants hidden_size as a multiple of 2 x num_heads={2 * num_heads}, because rotary positions "
                f"rotate pairs of features of a head, but got {hidden_size}; try {tries}"
            )
        if num_heads % num_kv_heads:
            tries = ", ".join(str(count) for count in range(1, num_heads + 1) if num_heads % count == 0)
            raise ValueError(
                f"CausalAttention wants num_kv_heads to divide num_heads={num_heads}, but got {num_kv_heads}; "
                f"try one of {tries}"
            )
        self.head_size = hidden_size // num_heads
        self.shares_keys = num_kv_heads < num_heads
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.key = nn.Linear(hidden_size, num_kv_heads * self.head_size, bias=False)
        self.value = nn.Linear(hidden_size, num_kv_heads * self.head_size, bias=False)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """
        Args:
            states: float [batch, time, hidden_size].

        Returns:
            float, of the same shape.
        """
        query, key, value = (self._heads(project(states)) for project in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(
            rotate(query), rotate(key), value, is_causal=True, enable_gqa=self.shares_keys
        )
        return cast(Tensor, self.output(mixed.transpose(1, 2).flatten(2)))

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.view(*projected.shape[:2], -1, self.head_size).transpose(1, 2)


def rotate(heads: Tensor) -> Tensor:
    """Rotate pairs of features by angles that grow with time; dot products then depend only on the distance.

    Angles are computed in float32 in any precision, and not stored, because a buffer would be cast with the weights.
    Source: Su et al. 2021, arXiv:2104.09864; pairs are half a head apart, as in GPT-NeoX.

    Args:
        heads: float [batch, heads, time, head_size]; ``head_size`` is even.

    Returns:
        float, of the same shape and dtype.
    """
    time, head_size = heads.shape[-2:]
    pair = torch.arange(0, head_size, 2, device=heads.device, dtype=torch.float32)
    step = torch.arange(time, device=heads.device, dtype=torch.float32)
    angles = step[:, None] * WAVE_BASE ** (-pair / head_size)
    cos, sin = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    one, two = heads.chunk(2, dim=-1)
    return torch.cat((one * cos - two * sin, two * cos + one * sin), dim=-1)
