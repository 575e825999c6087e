"""A recurrent network over a sequence of features, whose cell can be chosen."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from modules.model.layers.lstm_cell import LstmCells

Cell = Literal["rnn", "lstm", "gru", "lstm_written_out"]


class Recurrent(nn.Module):
    """A plain recurrent network, an LSTM or a GRU, and a linear layer on its last outputs.

    Source: Elman 1990 (rnn); Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735 (lstm); Cho et al. 2014,
    arXiv:1406.1078 (gru).
    """

    is_component = True

    def __init__(
        self,
        num_features: int,
        num_outputs: int,
        hidden_size: int,
        cell: Cell,
        num_output_steps: int | None = None,
        forget_bias: float = 0.0,
    ) -> None:
        """
        Args:
            num_features: of a time step.
            num_outputs: numbers or logits of the output.
            hidden_size: units.
            cell: "rnn" has tanh; "lstm" and "gru" are torch's; "lstm_written_out" is modules/model/layers/lstm_cell.py.
            num_output_steps: how many of the last time steps have an output; None: the last one, without a dimension for it.
            forget_bias: added to the initial bias of the LSTM's forget gate; "lstm_written_out" adds it at every step.
        """
        super().__init__()
        if min(num_features, num_outputs, hidden_size, 1 if num_output_steps is None else num_output_steps) < 1:
            raise ValueError(
                f"Recurrent wants num_features, num_outputs, hidden_size and num_output_steps of at least 1, but got "
                f"{num_features}, {num_outputs}, {hidden_size} and {num_output_steps}"
            )
        if forget_bias and not cell.startswith("lstm"):
            raise ValueError(f"Recurrent: forget_bias={forget_bias} is for an LSTM, but cell={cell}; set it to 0")
        self.recurrence = Recurrence(num_features, hidden_size, cell, num_output_steps, forget_bias)
        self.head = nn.Linear(hidden_size, num_outputs)

    def layers(self) -> list[nn.Module]:
        return [self.recurrence, self.head]

    def forward(self, inputs: Tensor) -> Tensor:
        """Run over sequences.

        Args:
            inputs: float [batch, time, num_features].

        Returns:
            float [batch, num_outputs], or [batch, num_output_steps, num_outputs].

        Raises:
            ValueError: the sequences are shorter than ``num_output_steps``.
        """
        return cast(Tensor, self.head(self.recurrence(inputs)))

    def gates(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return what the cell does at every time step.

        Returns:
            Of an LSTM "write", "forget" and "read", its input, forget and output gate, and "state", its cell state; of other
            cells "state"; float [batch, time, hidden_size] each.
        """
        return self.recurrence.gates(inputs)


class Recurrence(nn.Module):
    """The cell at every time step. Its outputs are those of the last time steps."""

    def __init__(
        self, num_features: int, hidden_size: int, cell: Cell, num_output_steps: int | None, forget_bias: float
    ) -> None:
        super().__init__()
        self.cell_name, self.num_output_steps = cell, num_output_steps
        self.cell: nn.Module
        if cell == "lstm_written_out":
            self.cell = LstmCells(num_features, hidden_size, forget_bias)
        else:
            kind = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[cell]
            self.cell = kind(num_features, hidden_size, batch_first=True)
            if cell == "lstm":
                cast(Tensor, self.cell.bias_ih_l0).data.chunk(4)[1].add_(forget_bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """From float [batch, time, num_features] to [batch, hidden_size], or [batch, num_output_steps, hidden_size]."""
        outputs: Tensor = self.cell(inputs)[0]
        if self.num_output_steps is None:
            return outputs[:, -1]
        if outputs.shape[1] < self.num_output_steps:
            raise ValueError(
                f"Recurrent has model.num_output_steps={self.num_output_steps}, but the sequences have {outputs.shape[1]} time "
                "steps; lower it"
            )
        return outputs[:, -self.num_output_steps :]

    def gates(self, inputs: Tensor) -> dict[str, Tensor]:
        """As `Recurrent.gates`."""
        if not self.cell_name.startswith("lstm"):
            return {"state": self.cell(inputs)[0]}
        cell = self._written_out(inputs.shape[-1]).cell
        (m, c), times = cell.start(inputs), list[tuple[Tensor, ...]]()
        for projected in cell.project(inputs).unbind(dim=1):
            gates = projected + m @ cell.gates.weight[:, cell.input_size :].t()
            write, _, forget, read = gates.chunk(4, dim=-1)
            m, c = cell.update(gates, c)
            times.append((write.sigmoid(), (forget + cell.forget_bias).sigmoid(), read.sigmoid(), c))
        return {
            name: torch.stack(values, dim=1)
            for name, values in zip(("write", "forget", "read", "state"), zip(*times, strict=True), strict=True)
        }

    def _written_out(self, num_features: int) -> LstmCells:
        """The LSTM with its gates written out, with the same weights."""
        if isinstance(self.cell, LstmCells):
            return self.cell
        assert isinstance(self.cell, nn.LSTM)
        one_step = nn.LSTMCell(num_features, self.cell.hidden_size)
        one_step.load_state_dict({name.removesuffix("_l0"): tensor for name, tensor in self.cell.state_dict().items()})
        cells = LstmCells(num_features, self.cell.hidden_size, forget_bias=0.0)
        cells.cell.copy_weights(one_step)
        return cells.to(next(self.cell.parameters()).device)
