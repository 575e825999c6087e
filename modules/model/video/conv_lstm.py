"""An LSTM whose states are maps, and whose gates are convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

State = tuple[Tensor, Tensor]
"""Output and cell state, float [batch, channels, height, width] each."""


class ConvLstm(nn.Module):
    """A convolutional LSTM, without peephole connections. Source: Shi et al. 2015, arXiv:1506.04214, section 3.1."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int) -> None:
        """
        Args:
            in_channels: of the inputs; 0: it has none, and only its state changes.
            channels: of the state.
            kernel_size: odd.
        """
        super().__init__()
        self.channels = channels
        padding = kernel_size // 2
        self.project = nn.Conv2d(in_channels, 4 * channels, kernel_size, padding=padding) if in_channels else None
        self.recur = nn.Conv2d(channels, 4 * channels, kernel_size, padding=padding, bias=self.project is None)

    def forward(self, inputs: Tensor) -> State:
        """Read maps, float [batch, time, in_channels, height, width], from a state of zeros; returns the last state."""
        assert self.project is not None, "it has inputs"
        batch, _, _, height, width = inputs.shape
        projected: Tensor = self.project(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])
        m = c = inputs.new_zeros(batch, self.channels, height, width)
        for gates in projected.unbind(1):
            m, c = _update(gates + self.recur(m), c)
        return m, c

    def run(self, state: State, num_steps: int) -> Tensor:
        """Change a state without inputs; returns the outputs, float [batch, num_steps, channels, height, width]."""
        (m, c), outputs = state, list[Tensor]()
        for _ in range(num_steps):
            m, c = _update(self.recur(m), c)
            outputs.append(m)
        return torch.stack(outputs, dim=1)


def _update(gates: Tensor, c: Tensor) -> State:
    write, forget, read, candidate = gates.chunk(4, dim=1)
    c = torch.sigmoid(forget + 1) * c + torch.sigmoid(write) * torch.tanh(candidate)
    return torch.sigmoid(read) * torch.tanh(c), c
