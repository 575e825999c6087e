from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.model.layers.lstm_cell import LstmCell, LstmCells


def _pair(forget_bias: float = 0.7) -> tuple[LstmCell, nn.LSTMCell]:
    torch.manual_seed(0)
    torchs = nn.LSTMCell(3, 5).double()
    cell = LstmCell(3, 5, forget_bias).double()
    cell.copy_weights(torchs)
    return cell, torchs


def _text(batch: int = 2, time: int = 4) -> Tensor:
    return torch.randn(batch, time, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_the_cell_gives_what_torchs_gives_under_the_mapping_of_weights() -> None:
    cell, torchs = _pair()
    state = expected = (_text(2, 5).flatten(1)[:, :5], _text(2, 5).flatten(1)[:, 5:10])
    for inputs in _text().unbind(1):
        state, expected = cell(inputs, state), torchs(inputs, expected)
        for one, other in zip(state, expected, strict=True):
            assert (one - other).abs().max() < 1e-12
    in_32, torchs_32 = cell.float()(_text()[:, 0].float(), cell.start(_text().float())), torchs.float()
    for one, other in zip(in_32, torchs_32(_text()[:, 0].float()), strict=True):
        assert (one - other).abs().max() < 1e-6


def test_the_cell_learns_as_torchs_does() -> None:
    cell, torchs = _pair()
    for each in (cell, torchs):
        m, c = each(_text()[:, 0], cell.start(_text()))
        (m.square().sum() + c.sum()).backward()
    assert cell.gates.bias.grad is not None
    assert torchs.bias_ih.grad is not None
    i, j, f, o = cell.gates.bias.grad.chunk(4)
    torch.testing.assert_close(torch.cat([i, f, j, o]), torchs.bias_ih.grad)


def test_the_forget_bias_keeps_what_is_remembered() -> None:
    cell = LstmCell(3, 5, 50.0)
    memory = torch.arange(5.0).expand(2, 5)
    nn.init.zeros_(cell.gates.weight)
    nn.init.zeros_(cell.gates.bias)
    _, kept = cell(torch.ones(2, 3), (torch.zeros(2, 5), memory))
    torch.testing.assert_close(kept, memory)


def test_a_layer_is_the_cell_at_every_time() -> None:
    layer = LstmCells(3, 5, 1.0).double()
    state = layer.cell.start(_text())
    shown, last = layer(_text())
    for time, inputs in enumerate(_text().unbind(1)):
        state = layer.cell(inputs, state)
        torch.testing.assert_close(shown[:, time], state[0])
    torch.testing.assert_close(last, state)


def test_a_text_that_has_ended_keeps_its_state() -> None:
    layer = LstmCells(3, 5, 1.0).double()
    valid = torch.tensor([[True, True, False, False], [False, True, True, True]])
    _, (m, c) = layer(_text(), valid=valid)
    for row, real in ((0, slice(0, 2)), (1, slice(1, 4))):
        _, (short_m, short_c) = layer(_text()[row : row + 1, real])
        torch.testing.assert_close(m[row], short_m[0])
        torch.testing.assert_close(c[row], short_c[0])
