"""What could go wrong under ZeRO and in a pipeline besides the matrix: frozen weights, buffers, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from modules.model.mlp import Mlp
from modules.objective.cross_entropy import CrossEntropy
from modules.parallel.base import Learner, Rank, Recipe
from modules.schedule.constant import Constant
from tests.engines import MODES, Mode
from tests.ranks import RankError, on_ranks


class Half(Mlp):
    """Its first layer is frozen, and it counts its steps in a buffer of whole numbers."""

    def __init__(self) -> None:
        super().__init__(num_features=5, num_classes=6, hidden_sizes=[8], dropout_prob=0.0)
        self.stack[1].requires_grad_(False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            assert isinstance(self.calls, Tensor)
            self.calls += 1
        return super().forward(inputs)


def freeze(rank: Rank, mode: Mode) -> dict[str, Any]:
    torch.manual_seed(0)
    model, topology = Half(), mode.topology
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    engine = mode.engine()
    recipe = Recipe(9, 1, 0.1, "fp32", False, "cpu", 4, topology, rank)
    engine.prepare(Learner(model, CrossEntropy(), lambda p: AdamW(p, lr=0.01), Constant()), recipe)
    place = topology.place(rank.number).data
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        inputs, targets = torch.randn(8, 5, generator=generator), torch.randint(6, (8,), generator=generator)
        share = 8 // topology.data
        own = slice(place * share, (place + 1) * share)
        engine.train_step((inputs[own], targets[own]), step)
    engine.snapshot()
    weights = engine.weights()
    return {name: (before[name].numpy(), tensor.numpy()) for name, tensor in weights.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data", "zero1", "zero2", "zero3"])
def test_frozen_weights_stay_and_buffers_come_along(name: str) -> None:
    expected = on_ranks(1, freeze, MODES["single"])[0]
    found = on_ranks(2, freeze, MODES[name])[0]
    assert found.keys() == expected.keys()
    for key, (before, after) in found.items():
        np.testing.assert_allclose(after, expected[key][1], rtol=1e-4, atol=1e-6, err_msg=key)
        assert np.array_equal(before, after) == key.startswith("stack.1."), key
    assert found["calls"][1] == 3


def unfit(rank: Rank, mode: Mode) -> None:
    model: nn.Module = nn.Linear(5, 6)
    recipe = Recipe(9, 1, None, "fp32", False, "cpu", 4, mode.topology, rank)
    mode.engine().prepare(Learner(model, CrossEntropy(), lambda p: AdamW(p), Constant()), recipe)


@pytest.mark.parametrize(("name", "told"), [("pipeline", "has no layers"), ("model", "has no shards")])
def test_a_model_that_does_not_fit_is_refused_by_every_rank(name: str, told: str) -> None:
    with pytest.raises(RankError) as caught:
        on_ranks(2, unfit, MODES[name])
    assert str(caught.value).count(told) == 2


@pytest.mark.parametrize("name", ["single", "zero1"])
def test_fp16_is_refused_without_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    mode = MODES[name]
    recipe = Recipe(9, 1, None, "fp16", False, "auto", 4)
    with pytest.raises(ValueError, match="precision=fp16 needs a GPU, but torch finds 0 here; take precision=bf16"):
        mode.engine().prepare(Learner(nn.Linear(5, 6), CrossEntropy(), lambda p: AdamW(p), Constant()), recipe)
