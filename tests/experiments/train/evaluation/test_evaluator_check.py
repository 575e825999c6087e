from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from experiments.components.assemble import Components, assemble
from experiments.config.compose import compose
from experiments.core.errors import PlanError
from experiments.plan.estimate import estimate, make_layout
from experiments.plan.plan import make_plan
from experiments.train.evaluation.evaluator_check import as_numbers, check_evaluator, dry_run
from modules.data.base import Batch, Data, Split, Tensors
from modules.evaluator.accuracy import Accuracy
from modules.evaluator.base import OLD_METHODS, renamed_methods
from modules.parallel.cost_model.layout import ParallelLayout
from modules.parallel.topology import Topology


class WholeModel:
    """Counts examples and parameters with the model."""

    def __init__(self) -> None:
        self.data: Data | None = None

    def setup(self, data: Data) -> None:
        self.data = data

    def update_with_model(self, model: nn.Module, batch: Batch) -> Tensor:
        assert not model.training
        assert isinstance(batch[0], Tensor)
        return torch.tensor([len(model(batch[0]))], dtype=torch.float64)

    def compute_with_model(self, model: nn.Module, sums: Tensor) -> dict[str, float]:
        return {"examples": float(sums[0]), "parameters": float(sum(each.numel() for each in model.parameters()))}


def _components() -> Components:
    return assemble(compose(["model=softmax"]).config)


def test_a_model_evaluator_gets_the_data_and_is_checked_like_any_other() -> None:
    components = _components()
    assert dry_run(components, ParallelLayout("single"))[0] == ["loss_nats", "accuracy_top1"]
    components.evaluator = WholeModel()
    before = torch.get_rng_state()
    assert dry_run(components, ParallelLayout("single"))[0] == ["loss_nats", "examples", "parameters"]
    assert components.evaluator.data is components.data
    assert components.setup.model.training
    assert torch.equal(torch.get_rng_state(), before)


class Remembering(WholeModel):
    """Keeps what it has measured."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[float] = []

    def compute_with_model(self, model: nn.Module, sums: Tensor) -> dict[str, float]:
        self.history.append(float(sums[0]))
        return {"examples": max(self.history)}


class Logging(Remembering):
    recomputed = ("history",)


def test_an_evaluator_whose_state_is_not_saved_is_refused() -> None:
    components = _components()
    components.evaluator = Remembering()
    with pytest.raises(ValueError, match=r"Remembering: evaluator\.history changes in each evaluation, but no"):
        dry_run(components, ParallelLayout("single"))
    components.evaluator = Logging()
    assert dry_run(components, ParallelLayout("single"))[0] == ["loss_nats", "examples"]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (ParallelLayout("pipeline", Topology(pipe=2), stage=1), "parallel.pipe=2 leaves no rank with the whole model"),
        (ParallelLayout("zero", Topology(model=2)), "parallel.model=2 leaves"),
        (ParallelLayout("zero", Topology(data=2), stage=3), "parallel.stage=3 leaves"),
    ],
)
def test_a_model_evaluator_is_refused_where_no_rank_holds_the_whole_model(layout: ParallelLayout, message: str) -> None:
    components = _components()
    assert dry_run(components, layout)
    components.evaluator = WholeModel()
    with pytest.raises(ValueError, match=message):
        dry_run(components, layout)


def test_a_plan_refuses_a_model_evaluator_that_does_not_fit() -> None:
    config = compose(["experiment=word2vec", "parallel=zero3", "hardware.devices_per_node=2"]).config
    config["model"]["sparse_gradients"] = False
    config["data"] = {**config["data"], "files": {}}  # a plan looks for these files on this machine
    plan = make_plan(config)
    assert make_layout(config, plan).stage == 3
    config["data"] = compose(["experiment=word2vec"]).config["data"]
    with pytest.raises(
        PlanError, match=r"parallel\.stage=3 leaves no rank with the whole model, which the evaluator WordVectors"
    ):
        estimate(config, plan)


class WrongSignature(WholeModel):
    def artifacts(self) -> dict[str, bytes]:
        raise AssertionError("it is called")


class WithArtifacts(WholeModel):
    def artifacts(self, model: nn.Module, split: Split) -> dict[str, bytes]:
        raise AssertionError("it is called before training")


def test_artifacts_with_a_wrong_signature_are_refused_before_training() -> None:
    components = _components()
    components.evaluator = WithArtifacts()
    assert dry_run(components, ParallelLayout("single"))
    components.evaluator = WrongSignature()
    message = "evaluator WrongSignature: artifacts cannot be called as artifacts(model, split) (too many positional arguments)"
    with pytest.raises(ValueError, match=re.escape(f"{message}; write `def artifacts(self, model, split)`")):
        dry_run(components, ParallelLayout("single"))


@pytest.mark.parametrize(("old", "new"), OLD_METHODS.items())
def test_former_method_names_are_refused_before_training(old: str, new: str) -> None:
    components = _components()
    components.evaluator = type("Former", (), {old: Accuracy.update})()
    message = f"evaluator Former: the method `{old}` is now called `{new}`; rename it"
    with pytest.raises(ValueError, match=re.escape(message)):
        dry_run(components, ParallelLayout("single"))


@pytest.mark.parametrize("old", OLD_METHODS)
@pytest.mark.parametrize("method", ["update", "update_with_model"])
def test_a_helper_with_a_former_name_in_an_evaluator_of_the_new_contract_is_accepted(old: str, method: str) -> None:
    kind = type("WithHelper", (), {method: Accuracy.update, old: Accuracy.compute})
    assert renamed_methods(kind()) == []


class Odd(Accuracy):
    """Computes what a test gives it."""

    def __init__(self, computed: Any, sums: Any = None) -> None:
        super().__init__([1])
        self.computed, self.sums = computed, sums

    def update(self, outputs: Tensors, targets: Tensors) -> Tensor:
        sums: Tensor = super().update(outputs, targets) if self.sums is None else self.sums
        return sums

    def compute(self, sums: Tensor) -> dict[str, float]:
        return self.computed  # type: ignore[no-any-return]


class OddWithModel(WholeModel):
    def __init__(self, computed: Any) -> None:
        super().__init__()
        self.computed = computed

    def compute_with_model(self, model: nn.Module, sums: Tensor) -> dict[str, float]:
        return self.computed  # type: ignore[no-any-return]


def _refusal(evaluator: Any) -> str:
    components = _components()
    components.evaluator = evaluator
    with pytest.raises(ValueError, match="evaluator Odd") as raised:
        dry_run(components, ParallelLayout("single"))
    return str(raised.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.tensor(0.5), "r2 is a Tensor and not a number; write float(...) around it"),
        (torch.tensor([0.5, 0.25]), "r2 is a Tensor and not a number"),
        (np.array([0.5]), "r2 is a ndarray and not a number"),
        (None, "r2 is None and not a number; return float('nan') where there is no value"),
        ("0.5", "r2 is a str and not a number"),
        (1j, "r2 is a complex and not a number"),
        ([0.5], "r2 is a list and not a number"),
    ],
)
def test_a_metric_that_is_not_a_number_is_refused_before_training(value: object, message: str) -> None:
    metrics = {"r2": value, "mae": 0.1}
    assert message in _refusal(Odd(metrics))
    assert message in _refusal(OddWithModel(metrics))


@pytest.mark.parametrize(
    ("computed", "message"),
    [
        (None, "computes None; return a dict of numbers"),
        (0.5, "computes a float; return a dict of numbers"),
        ([("r2", 0.5)], "computes a list; return a dict of numbers"),
        ({3: 0.5}, "the name 3 of a metric is an int; write a text that is not empty"),
        ({"": 0.5}, "the name '' of a metric is empty; write a text that is not empty"),
        ({"mAP@50": 0.1, "mAP_50": 0.2}, "the metrics mAP@50 and mAP_50 are both mAP_50 in MLflow"),
        ({"F1 (a)": 0.1, "F1 [a]": 0.2}, "the metrics F1 (a) and F1 [a] are both F1 _a_ in MLflow"),
        ({"loss,nats": 1.0}, "the metrics loss_nats and loss,nats are both loss_nats in MLflow"),
    ],
)
def test_metrics_without_a_usable_name_are_refused_before_training(computed: object, message: str) -> None:
    assert message in _refusal(Odd(computed))


@pytest.mark.parametrize(
    ("sums", "shown"), [(torch.tensor(1.0), "a tensor of shape []"), ([1.0], "a list"), (0.5, "a float")]
)
def test_sums_that_cannot_be_added_are_refused_before_training(sums: object, shown: str) -> None:
    assert f"its sums of a batch are {shown}; return one vector" in _refusal(Odd({"r2": 0.5}, sums))


def test_numbers_of_any_type_become_plain_ones() -> None:
    values = as_numbers(Accuracy([1]), {"a": np.float32(0.5), "b": 3, "c": True, "d": float("nan"), "e": np.int64(2)})
    assert list(map(type, values.values())) == [float] * 5
    assert json.loads(json.dumps(values))["a"] == 0.5


@pytest.mark.parametrize("divide", [lambda _: 1 / 0, lambda _: math.log(0.0), lambda _: math.exp(1e9)])
def test_a_division_by_zero_of_two_equal_examples_is_no_fault(divide: Callable[[Tensor], float]) -> None:
    components = _components()
    components.evaluator = type(
        "Skewed",
        (),
        {"update": Accuracy([1]).update, "compute": lambda _, sums: divide(sums)},  # type: ignore[arg-type]
    )()
    assert dry_run(components, ParallelLayout("single")) == (["loss_nats"], ANY, False)
    check_evaluator(components, ParallelLayout("single"), "val/skew")  # the first evaluation knows whether it is there
