"""The LSTM of a plan takes few operations, and costs what torch's costs."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import _VF, Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from modules.parallel.cost_model.lstm_at_once import lstm_at_once
from modules.parallel.cost_model.tensor_lifetimes import TensorLifetimes

SHAPES: dict[str, dict[str, Any]] = {
    "one layer": {"num_layers": 1},
    "both directions": {"num_layers": 2, "bidirectional": True, "dropout": 0.1},
    "no biases": {"num_layers": 1, "bias": False},
    "time first": {"num_layers": 1, "batch_first": False},
}


def count(options: dict[str, Any], *, at_once: bool) -> tuple[int, int, int, list[torch.Size]]:
    """FLOPs, operations, bytes that the backward pass needs, and the shapes of the outputs."""
    torch._C._set_mkldnn_enabled(False)
    try:
        with FakeTensorMode():
            model = nn.LSTM(16, 24, **{"batch_first": True, **options})
            inputs = torch.empty(8, 50, 16, requires_grad=True)
            with FlopCounterMode(display=False) as flops, TensorLifetimes() as lifetimes:
                if at_once:
                    with lstm_at_once():
                        outputs, (m, c) = model(inputs)
                else:
                    outputs, (m, c) = model(inputs)
                held = lifetimes.held_bytes
                outputs.sum().backward()
            assert all(isinstance(each.grad, Tensor) for each in (inputs, *model.parameters()))
            return flops.get_total_flops(), lifetimes.num_operations, held, [each.shape for each in (outputs, m, c)]
    finally:
        torch._C._set_mkldnn_enabled(True)


@pytest.mark.parametrize("name", SHAPES)
def test_it_costs_what_one_step_after_the_other_costs(name: str) -> None:
    flops, operations, held, shapes = count(SHAPES[name], at_once=True)
    expected_flops, expected_operations, expected_held, expected_shapes = count(SHAPES[name], at_once=False)
    assert shapes == expected_shapes
    assert flops == pytest.approx(expected_flops, rel=0.03)  # the first of 8 steps has no state to differentiate
    assert held == pytest.approx(expected_held, rel=0.3)
    assert operations < expected_operations / 5


def test_torchs_lstm_comes_back_and_computes_what_is_not_a_plain_batch() -> None:
    warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
    model, inputs = nn.LSTM(3, 4, proj_size=2), torch.randn(5, 2, 3)
    expected = model(inputs)[0]
    packed = nn.utils.rnn.pack_padded_sequence(inputs, [5, 3])
    with lstm_at_once():
        assert torch.equal(model(inputs)[0], expected)
        assert torch.equal(nn.LSTM(3, 4)(packed)[0].batch_sizes, packed.batch_sizes)
    assert "lstm" not in vars(_VF)
    assert torch.equal(model(inputs)[0], expected)
