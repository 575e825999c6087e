"""An LSTM cell, written out gate by gate, and a layer of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

State = tuple[Tensor, Tensor]  # output m and cell state c; float [batch, hidden_size] each


class LstmCell(nn.Module):
    """Maps the input of a time step and the previous state to the next state.

    The order of the gates is that of TensorFlow's ``BasicLSTMCell``: input gate i, candidate j, forget gate f, output gate o.
    torch has i, f, j, o, and two biases instead of one.
    Source: Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; Gers et al. 2000 (the gate f); Jozefowicz et
    al. 2015 (its bias).
    """

    def __init__(self, input_size: int, hidden_size: int, forget_bias: float) -> None:
        """
        Args:
            input_size: features of an input.
            hidden_size: number of units.
            forget_bias: added to the forget gate before the sigmoid, so that an untrained cell keeps its state.
        """
        super().__init__()
        self.input_size, self.hidden_size, self.forget_bias = input_size, hidden_size, forget_bias
        self.gates = nn.Linear(input_size + hidden_size, 4 * hidden_size)

    def forward(self, inputs: Tensor, state: State) -> State:
        """One step.

        Args:
            inputs: float [batch, input_size].
            state: previous m and c.

        Returns:
            The new m and c.
        """
        return self.step(self.project(inputs), state)

    def project(self, inputs: Tensor) -> Tensor:
        """Compute the part of the gates that depends on the inputs, for all time steps in one product.

        Args:
            inputs: float [..., input_size].

        Returns:
            float [..., 4 * hidden_size], for `step`.
        """
        return nn.functional.linear(inputs, self.gates.weight[:, : self.input_size], self.gates.bias)

    def step(self, projected: Tensor, state: State) -> State:
        """One step from a projected input, float [batch, 4 * hidden_size]."""
        m, c = state
        return self.update(projected + m @ self.gates.weight[:, self.input_size :].t(), c)

    def update(self, gates: Tensor, c: Tensor) -> State:
        """Return the new state from all gates, float [batch, 4 * hidden_size], and the previous cell state."""
        i, j, f, o = gates.chunk(4, dim=-1)
        c = torch.sigmoid(f + self.forget_bias) * c + torch.sigmoid(i) * torch.tanh(j)
        return torch.sigmoid(o) * torch.tanh(c), c

    def start(self, like: Tensor) -> State:
        """Return the initial state: zeros, float [batch, hidden_size], with device and dtype of ``like``, [batch, ...]."""
        zeros = like.new_zeros(len(like), self.hidden_size)
        return zeros, zeros

    @torch.no_grad()
    def copy_weights(self, cell: nn.LSTMCell) -> None:
        """Copy the weights of torch's cell, so that both return the same."""
        order = [0, 2, 1, 3]  # torch has i, f, j, o
        both = torch.cat([cell.weight_ih, cell.weight_hh], dim=1)
        self.gates.weight.copy_(torch.cat([both.chunk(4)[gate] for gate in order]))
        bias = (cell.bias_ih + cell.bias_hh).chunk(4)
        self.gates.bias.copy_(torch.cat([bias[gate] for gate in order]))
        self.gates.bias.chunk(4)[2].sub_(self.forget_bias)


class LstmCells(nn.Module):
    """An LSTM layer: the cell at every time step."""

    def __init__(self, input_size: int, hidden_size: int, forget_bias: float) -> None:
        super().__init__()
        self.cell = LstmCell(input_size, hidden_size, forget_bias)

    def forward(self, inputs: Tensor, state: State | None = None, valid: Tensor | None = None) -> tuple[Tensor, State]:
        """Run over a text.

        Args:
            inputs: float [batch, time, input_size].
            state: initial state; None: zeros.
            valid: bool [batch, time], False for padding, which keeps the state; None: no padding.

        Returns:
            m of every time step, float [batch, time, hidden_size], and the last state.
        """
        state = self.cell.start(inputs) if state is None else state
        outputs = []
        for time, projected in enumerate(self.cell.project(inputs).unbind(dim=1)):
            m, c = self.cell.step(projected, state)
            if valid is not None:
                real = valid[:, time, None]
                m, c = torch.where(real, m, state[0]), torch.where(real, c, state[1])
            state = m, c
            outputs.append(m)
        return torch.stack(outputs, dim=1), state
