from typing import Any

import pytest
import torch
from torch import nn

from modules.data.tensors import TensorSplit
from modules.evaluator.gates import Gates
from modules.model.recurrent import Recurrent


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "lstm_written_out"])
def test_outputs_of_the_last_time_steps(cell: Any) -> None:
    torch.manual_seed(0)
    model = Recurrent(2, 3, 4, cell, num_output_steps=2)
    inputs = torch.randn(5, 6, 2)
    outputs = model(inputs)
    assert outputs.shape == (5, 2, 3)
    changed = inputs.clone()
    changed[:, -1] += 1
    assert torch.equal(model(changed)[:, 0], outputs[:, 0])  # an output does not see what comes later
    assert not torch.equal(model(changed)[:, 1], outputs[:, 1])
    model.recurrence.num_output_steps = None
    assert torch.allclose(model(inputs), outputs[:, -1])
    assert all(value.shape == (5, 6, 4) for value in model.gates(inputs).values())


def test_the_gates_of_torchs_lstm_are_those_of_its_outputs() -> None:
    torch.manual_seed(0)
    model = Recurrent(2, 1, 4, "lstm", forget_bias=1.0)
    inputs = torch.randn(3, 5, 2)
    gates = model.gates(inputs)
    outputs, (_, state) = model.recurrence.cell(inputs)
    assert torch.allclose(gates["state"][:, -1], state[0], atol=1e-6)
    assert torch.allclose(gates["read"] * gates["state"].tanh(), outputs, atol=1e-6)
    assert list(gates) == ["write", "forget", "read", "state"]


def test_pictures_of_gates() -> None:
    torch.manual_seed(0)
    split = TensorSplit(torch.randn(3, 6, 2), torch.zeros(3, 1))
    files = Gates(2).artifacts(Recurrent(2, 1, 4, "lstm"), split)
    assert list(files) == ["gates_1.png", "gates_2.png"]
    assert all(content.startswith(b"\x89PNG") for content in files.values())
    assert files["gates_1.png"] != files["gates_2.png"]
    with pytest.raises(ValueError, match="wants a model with a method gates"):
        Gates().artifacts(nn.Linear(2, 1), split)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, but got 2, 0"):
        Recurrent(2, 0, 4, "rnn")
    with pytest.raises(ValueError, match="num_output_steps of at least 1, but got 2, 1, 4 and 0"):
        Recurrent(2, 1, 4, "rnn", num_output_steps=0)
    with pytest.raises(ValueError, match="is for an LSTM, but cell=gru"):
        Recurrent(2, 1, 4, "gru", forget_bias=1.0)
    with pytest.raises(ValueError, match="num_output_steps=7, but the sequences have 6 time steps"):
        Recurrent(2, 1, 4, "rnn", num_output_steps=7)(torch.zeros(1, 6, 2))
