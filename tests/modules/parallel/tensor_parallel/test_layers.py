"""Layers split over two and three ranks give the outputs and gradients of whole layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.parallel.base import EngineConfig, Rank
from modules.parallel.process_groups import ProcessGroups
from modules.parallel.tensor_parallel.layers import (
    ColumnLinear,
    Group,
    RowLinear,
    VocabularyEmbedding,
    compute_vocabulary_cross_entropy,
    find_own_slice,
    gather_from_group,
)
from modules.parallel.topology import Topology
from tests.support.ranks import run_on_ranks


def make_group(rank: Rank, size: int) -> Group:
    topology = Topology(model=size)
    return ProcessGroups(EngineConfig(1, 1, None, "fp32", False, "cpu", 1, topology, rank)).groups["model"]


def compare(rank: Rank, size: int, label_smoothing_prob: float) -> dict[str, float]:
    """Return the largest differences between a split network and the same network whole."""
    group = make_group(rank, size)
    torch.manual_seed(0)
    words, up, down, head = nn.Embedding(12, 5), nn.Linear(5, 6), nn.Linear(6, 5), nn.Linear(5, 12)
    inputs, targets = torch.randint(12, (2, 3)), torch.randint(12, (2, 3))

    def whole() -> Tensor:
        logits = head(down(torch.tanh(up(words(inputs)))))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=label_smoothing_prob)

    expected = whole()
    expected.backward()  # type: ignore[no-untyped-call]
    expected_grads = {
        name: layer.weight.grad for name, layer in (("words", words), ("up", up), ("down", down), ("head", head))
    }
    biases = {"up": up.bias.grad, "down": down.bias.grad, "head": head.bias.grad}
    down.bias.grad = None  # the split layer uses the same parameter

    parts: dict[str, Any] = {
        "words": VocabularyEmbedding(words, group),
        "up": ColumnLinear(up, group),
        "down": RowLinear(down, group),
        "head": ColumnLinear(head, group),
    }
    hidden = parts["down"](torch.tanh(parts["up"](parts["words"](inputs))))
    logits = parts["head"](hidden)
    loss = compute_vocabulary_cross_entropy(logits, targets, group, label_smoothing_prob).mean()
    loss.backward()  # type: ignore[no-untyped-call]

    def own(name: str, tensor: Tensor, dim: int) -> Tensor:
        part = find_own_slice(tensor.shape[dim], group)
        return tensor.narrow(dim, part.start, part.stop - part.start)

    differences = {"loss": float((loss - expected).detach().abs())}
    for name, dim in (("words", 0), ("up", 0), ("down", 1), ("head", 0)):
        grad = expected_grads[name]
        assert grad is not None
        differences[name] = float((parts[name].weight.grad - own(name, grad, dim)).abs().max())
    for name in ("up", "head"):
        grad = biases[name]
        assert grad is not None
        differences[f"{name}.bias"] = float((parts[name].bias.grad - own(name, grad, 0)).abs().max())
    assert biases["down"] is not None
    differences["down.bias"] = float((parts["down"].bias.grad - biases["down"]).abs().max())
    differences["gathered"] = float(
        (gather_from_group(logits, group) - head(down(torch.tanh(up(words(inputs)))))).detach().abs().max()
    )
    return differences


@pytest.mark.parametrize(("size", "label_smoothing_prob"), [(2, 0.0), (3, 0.1)])
def test_split_layers_compute_the_same_as_whole_layers(size: int, label_smoothing_prob: float) -> None:
    for differences in run_on_ranks(size, compare, size, label_smoothing_prob):
        assert max(differences.values()) < 1e-6, differences


def compute_extreme_losses(rank: Rank) -> list[float]:
    group = make_group(rank, 2)
    logits = torch.tensor([[1e4, 0.0, -1e4, 5.0], [-1e4, -1e4, -1e4, -1e4]])
    targets = torch.tensor([0, 3])
    part = logits[:, find_own_slice(4, group)].clone().requires_grad_()
    loss = compute_vocabulary_cross_entropy(part, targets, group).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert part.grad is not None
    return [float(loss.detach()), float(F.cross_entropy(logits, targets)), float(part.grad.isfinite().all())]


def test_the_cross_entropy_of_huge_logits_stays_finite() -> None:
    for loss, expected, is_finite in run_on_ranks(2, compute_extreme_losses):
        assert loss == pytest.approx(expected)
        assert is_finite == 1.0
