"""An LSTM in both directions over padded sequences."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class BidirectionalLstm(nn.Module):
    """Two LSTMs over a sequence, one from its beginning and one from its end.

    Padding is at the end in both directions, so it does not influence the outputs of valid time steps.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """
        Args:
            input_size: features of a time step.
            hidden_size: units of each direction.
        """
        super().__init__()
        self.onward = nn.LSTM(input_size, hidden_size, batch_first=True)
        self.back = nn.LSTM(input_size, hidden_size, batch_first=True)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Run over sequences.

        Args:
            inputs: float [batch, time, input_size].
            lengths: valid time steps, int64 [batch].

        Returns:
            float [batch, time, 2 * hidden_size]: first the outputs of the forward direction.
        """
        index = reversed_index(lengths, inputs.shape[1])[:, :, None]
        onward, _ = self.onward(inputs)
        back, _ = self.back(inputs.gather(1, index.expand(-1, -1, inputs.shape[2])))
        return torch.cat([onward, cast(Tensor, back).gather(1, index.expand(-1, -1, back.shape[2]))], dim=2)


def reversed_index(lengths: Tensor, num_steps: int) -> Tensor:
    """Return the index that reverses each sequence without its padding, int64 [batch, num_steps]; it is its own inverse."""
    place = torch.arange(num_steps, device=lengths.device)
    return torch.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)
