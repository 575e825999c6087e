"""Counts an LSTM of torch in a few operations, where torch would take some for each time step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import _VF, Tensor
from torch.nn import functional


@contextmanager
def lstm_at_once() -> Iterator[None]:
    """Replace torch's LSTM by one that computes all time steps together.

    The result is wrong, since the outputs do not depend on each other; sizes, FLOPs and what the backward pass needs are the
    same. On fake tensors, 500 time steps then take milliseconds instead of seconds.
    """
    original = _VF.lstm

    def lstm(*arguments: Any) -> Any:
        is_packed = len(arguments) > 1 and isinstance(arguments[1], Tensor)  # its second argument is the batch sizes
        return original(*arguments) if is_packed or not _is_plain(*arguments) else _compute(*arguments)

    _VF.lstm = lstm  # type: ignore[assignment]  # torch calls it by this name
    try:
        yield
    finally:
        del _VF.lstm


def _is_plain(
    inputs: Tensor, state: Any, weights: list[Tensor], has_biases: bool, num_layers: int, *others: Any
) -> bool:
    """Whether it is a batch of sequences, without projections of the outputs."""
    directions = 1 + bool(others[2])
    return inputs.dim() == 3 and len(weights) == num_layers * directions * (4 if has_biases else 2)


def _compute(
    inputs: Tensor,
    state: tuple[Tensor, Tensor],
    weights: list[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    is_training: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    size, values = 4 if has_biases else 2, inputs
    finals: list[tuple[Tensor, Tensor]] = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(1 + bidirectional):
            number = layer * (1 + bidirectional) + direction
            own = weights[number * size : (number + 1) * size]
            cells = state[1][number].unsqueeze(1 if batch_first else 0)
            before = values.new_empty(*values.shape[:2], own[1].shape[1]).requires_grad_()
            biases = own[2:] if has_biases else [None, None]
            gates = functional.linear(values, own[0], biases[0]) + functional.linear(before, own[1], biases[1])
            write, forget, new, read = gates.chunk(4, dim=2)
            cells = torch.sigmoid(forget) * cells + torch.sigmoid(write) * torch.tanh(new)
            outputs.append(torch.sigmoid(read) * torch.tanh(cells))
            last = (outputs[-1], cells)
            finals.append((last[0][:, -1], last[1][:, -1]) if batch_first else (last[0][-1], last[1][-1]))
        values = torch.cat(outputs, dim=2) if bidirectional else outputs[0]
        if dropout and is_training and layer < num_layers - 1:
            values = functional.dropout(values, dropout)
    return values, torch.stack([each for each, _ in finals]), torch.stack([each for _, each in finals])
