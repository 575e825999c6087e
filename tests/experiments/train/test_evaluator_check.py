from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from experiments.components.assemble import Components, assemble
from experiments.config.compose import compose
from experiments.core.errors import PlanError
from experiments.plan.estimate import estimate, layout_of
from experiments.plan.plan import make_plan
from experiments.train.evaluator_check import dry_run
from modules.data.base import Batch, Data, Split
from modules.parallel.cost_model.layout import ParallelLayout
from modules.parallel.topology import Topology


class Asking:
    """Counts examples by the model itself, and says how many parameters it has."""

    def __init__(self) -> None:
        self.data: Data | None = None

    def attach(self, data: Data) -> None:
        self.data = data

    def measure_model(self, model: nn.Module, batch: Batch) -> Tensor:
        assert not model.training
        assert isinstance(batch[0], Tensor)
        return torch.tensor([len(model(batch[0]))], dtype=torch.float64)

    def model_metrics(self, model: nn.Module, sums: Tensor) -> dict[str, float]:
        return {"examples": float(sums[0]), "parameters": float(sum(each.numel() for each in model.parameters()))}


def _parts() -> Components:
    return assemble(compose(["model=softmax"]).config)


def test_an_evaluator_that_asks_the_model_is_told_the_data_and_tried_like_any_other() -> None:
    parts = _parts()
    assert dry_run(parts, ParallelLayout("single"))[0] == ["loss_nats", "accuracy_top1"]
    parts.evaluator = Asking()
    before = torch.get_rng_state()
    assert dry_run(parts, ParallelLayout("single"))[0] == ["loss_nats", "examples", "parameters"]
    assert parts.evaluator.data is parts.data
    assert parts.learner.model.training
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("layout", "told"),
    [
        (ParallelLayout("pipeline", Topology(pipe=2), stage=1), "parallel.pipe=2 leaves no rank the whole model"),
        (ParallelLayout("zero", Topology(model=2)), "parallel.model=2 leaves"),
        (ParallelLayout("zero", Topology(data=2), stage=3), "parallel.stage=3 leaves"),
    ],
)
def test_it_is_refused_where_no_rank_has_the_whole_model(layout: ParallelLayout, told: str) -> None:
    parts = _parts()
    assert dry_run(parts, layout)
    parts.evaluator = Asking()
    with pytest.raises(ValueError, match=told):
        dry_run(parts, layout)


def test_a_plan_refuses_it_before_anything_queues() -> None:
    config = compose(["experiment=word2vec", "parallel=zero3", "hardware.devices_per_node=2"]).config
    config["model"]["sparse_gradients"] = False
    config["data"] = {**config["data"], "files": {}}  # what a plan looks for on this machine
    plan = make_plan(config)
    assert layout_of(config, plan).stage == 3
    config["data"] = compose(["experiment=word2vec"]).config["data"]
    with pytest.raises(
        PlanError, match=r"parallel\.stage=3 leaves no rank the whole model, which the evaluator WordVectors"
    ):
        estimate(config, plan)


class Former(Asking):
    """Shows what it did when it was asked at every evaluation."""

    def files(self) -> dict[str, bytes]:
        raise AssertionError("it is called")


class Current(Asking):
    def files(self, model: nn.Module, split: Split) -> dict[str, bytes]:
        raise AssertionError("it is called before training")


def test_files_that_could_not_be_asked_for_after_training_are_told_before() -> None:
    parts = _parts()
    parts.evaluator = Current()
    assert dry_run(parts, ParallelLayout("single"))
    parts.evaluator = Former()
    told = r"evaluator Former: files cannot be called as files\(model, split\) \(too many positional arguments\)"
    with pytest.raises(ValueError, match=rf"{told}, .*; write `def files\(self, model, split\)`"):
        dry_run(parts, ParallelLayout("single"))
