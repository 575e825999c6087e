"""One step of LSTM written out, gate by gate, and a whole text of such steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

State = tuple[Tensor, Tensor]  # what the cell gives, m, and what it remembers, c; float [batch, hidden_size] each


class LstmCell(nn.Module):
    """Maps the input of one time and the state before it to the state after it.

    The gates lie side by side as in TensorFlow's ``BasicLSTMCell``: i (how much of the new is let in), j (the new), f (how
    much of the old is kept), o (how much is shown). torch's own has i, f, j, o, and two biases where this has one.
    Source: Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; Gers et al. 2000 (the gate f); Jozefowicz et
    al. 2015 (its bias).
    """

    def __init__(self, input_size: int, hidden_size: int, forget_bias: float) -> None:
        """
        Args:
            input_size: features of an input.
            hidden_size: units, each with a memory.
            forget_bias: added to the gate f before its sigmoid, so that an untrained cell remembers.
        """
        super().__init__()
        self.input_size, self.hidden_size, self.forget_bias = input_size, hidden_size, forget_bias
        self.gates = nn.Linear(input_size + hidden_size, 4 * hidden_size)

    def forward(self, inputs: Tensor, state: State) -> State:
        """One step.

        Args:
            inputs: float [batch, input_size].
            state: m and c of the time before.

        Returns:
            m and c of this time.
        """
        return self.step(self.project(inputs), state)

    def project(self, inputs: Tensor) -> Tensor:
        """The inputs' part of the gates: of all times at once one large product, where `forward` has many small ones.

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
        """The state of this time from all gates, float [batch, 4 * hidden_size], and what was remembered."""
        i, j, f, o = gates.chunk(4, dim=-1)
        c = torch.sigmoid(f + self.forget_bias) * c + torch.sigmoid(i) * torch.tanh(j)
        return torch.sigmoid(o) * torch.tanh(c), c

    def start(self, like: Tensor) -> State:
        """The state before the first time: zeros, float [batch, hidden_size], for inputs [batch, ...] such as ``like``."""
        zeros = like.new_zeros(len(like), self.hidden_size)
        return zeros, zeros

    @torch.no_grad()
    def load_torchs(self, cell: nn.LSTMCell) -> None:
        """Take over the weights of torch's cell, so that both give the same."""
        order = [0, 2, 1, 3]  # torch has i, f, j, o
        both = torch.cat([cell.weight_ih, cell.weight_hh], dim=1)
        self.gates.weight.copy_(torch.cat([both.chunk(4)[gate] for gate in order]))
        bias = (cell.bias_ih + cell.bias_hh).chunk(4)
        self.gates.bias.copy_(torch.cat([bias[gate] for gate in order]))
        self.gates.bias.chunk(4)[2].sub_(self.forget_bias)


class LstmCells(nn.Module):
    """A layer of LSTM: the cell at every time of a text, from a state of zeros."""

    def __init__(self, input_size: int, hidden_size: int, forget_bias: float) -> None:
        super().__init__()
        self.cell = LstmCell(input_size, hidden_size, forget_bias)

    def forward(self, inputs: Tensor, state: State | None = None, valid: Tensor | None = None) -> tuple[Tensor, State]:
        """The text from its first word to its last.

        Args:
            inputs: float [batch, time, input_size].
            state: before the first time; None: zeros.
            valid: bool [batch, time], False where a text has ended or not begun, and its state stays as it is; None: all.

        Returns:
            m of every time, float [batch, time, hidden_size], and the state after the last.
        """
        state = self.cell.start(inputs) if state is None else state
        shown = []
        for time, projected in enumerate(self.cell.project(inputs).unbind(dim=1)):
            m, c = self.cell.step(projected, state)
            if valid is not None:
                real = valid[:, time, None]
                m, c = torch.where(real, m, state[0]), torch.where(real, c, state[1])
            state = m, c
            shown.append(m)
        return torch.stack(shown, dim=1), state
