from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from modules.model.logits_of import LogitsOf


class Recorded(nn.Module):
    """Gives a record as transformers' models do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 5)

    def forward(self, inputs: Tensor) -> SimpleNamespace:
        return SimpleNamespace(loss=None, logits=self.linear(inputs))


def test_logits_are_taken_out_of_a_record() -> None:
    model, inputs = Recorded(), torch.rand(2, 3)
    assert torch.equal(LogitsOf(model)(inputs), model.linear(inputs))


def test_a_model_without_logits_is_reported() -> None:
    with pytest.raises(
        ValueError, match="whose output has logits, but Linear returns Tensor; if it returns a tensor, use it without"
    ):
        LogitsOf(nn.Linear(3, 5))(torch.rand(2, 3))
