"""Models and topologies that do not fit are reported before any rank starts."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from torch import nn

from modules.model.mlp import Mlp
from modules.model.softmax import Softmax
from modules.parallel.cost_model.compatibility import Partition, find_incompatibilities, find_stage_bounds
from modules.parallel.topology import Topology
from tests.support.engines import make_model

# ruff: noqa: E501
MLP = Mlp(
    num_features=5, num_classes=6, hidden_sizes=[8, 12], dropout_prob=0.0
)  # 8 layers; layers 1, 4 and 7 have parameters


@pytest.mark.parametrize(
    ("model", "topology", "partition", "message"),
    [
        (nn.Linear(2, 3), Topology(pipe=2), "parameters", "parallel.pipe=2 cuts a list of layers, but Linear has no layers()"),
        (MLP, Topology(pipe=9), "parameters", "parallel.pipe=9 is more than the 8 layers of Mlp; set parallel.pipe to at most 8"),
        (MLP, Topology(pipe=4), "uniform", r"stage 1 \(layers 2 to 3 of Mlp\) has no parameters to train; lower parallel.pipe"),
        (MLP, Topology(pipe=2), [0, 8], "parallel.partition=[0, 8] names a layer beyond the 8 layers of Mlp; use layers from 0 to 7"),
        (MLP, Topology(pipe=3), [0, 2, 4], r"stage 1 \(layers 2 to 3"),
        (nn.Linear(2, 3), Topology(model=2), "parameters", "parallel.model=2 splits layers, but Linear has no shards()"),
        (MLP, Topology(model=3), "parameters", "cannot be split over parallel.model=3 ranks; try 6 or 9, or lower parallel.model"),
        (make_model("gpt"), Topology(model=4), "parameters", "model.num_kv_heads=2 cannot be split over parallel.model=4 ranks; try 4,"),
        (make_model("deep_lstm"), Topology(model=5), "parameters", "try model.vocab_size=15, as unused tokens do no harm"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_fit_is_reported_with_a_hint(
    model: nn.Module, topology: Topology, partition: Partition, message: str
) -> None:
    problems = "\n".join(find_incompatibilities(model, topology, partition))
    assert message in problems or re.search(message, problems), problems


def test_problems_of_stages_and_slices_are_reported_together() -> None:
    assert len(find_incompatibilities(nn.Linear(2, 3), Topology(pipe=2, model=2))) == 2


@pytest.mark.parametrize("name", ["mlp", "lenet", "gpt", "gpt_tied", "deep_lstm"])
def test_a_model_that_fits_has_no_problems(name: str) -> None:
    assert find_incompatibilities(make_model(name), Topology(pipe=2, data=7, model=2)) == []


def test_every_model_can_have_replicas() -> None:
    assert find_incompatibilities(nn.Linear(2, 3), Topology(data=5)) == []


def test_stages_are_cut_as_the_partition_says() -> None:
    bounds = find_stage_bounds(MLP, 3, "parameters")
    layers = MLP.layers()
    sizes = [
        sum(p.numel() for layer in layers[first:last] for p in layer.parameters()) for first, last in pairwise(bounds)
    ]
    assert sizes == [48, 108, 78]
    assert find_stage_bounds(MLP, 2, "uniform") == [0, 4, 8]
    assert find_stage_bounds(MLP, 3, [0, 2, 5]) == [0, 2, 5, 8]


def test_a_model_without_layers_to_split_is_reported() -> None:
    class NothingToSplit(Softmax):
        def shards(self) -> dict[str, object]:  # type: ignore[override]
            return {}

    assert (
        "has none that can be split; use parallel=data"
        in find_incompatibilities(NothingToSplit(2, 3), Topology(model=2))[0]
    )
