"""Torch's optimizers and losses by the names that everybody uses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.components.assemble import adapt_objective
from experiments.components.instantiate import instantiate
from experiments.components.optimizer import make_optimizer_factory
from experiments.config.compose import compose
from experiments.config.rules.all_rules import find_problems
from experiments.config.source_map import SourceMap
from experiments.config.validate import Validation
from experiments.core.errors import ConfigError
from modules.objective.base import CountsTargets, apply_objective

OPTIMIZERS = [name for name in dir(torch.optim) if name[0].isupper()]
LOSSES = [name for name in dir(nn) if name.endswith("Loss")]


def check(node: dict[str, Any], group: str) -> list[str]:
    """Check a node as a configuration is checked; its target is replaced by the full name."""
    validation = Validation(SourceMap())
    validation.check_component(node, group, frozenset({group}))
    return validation.problems or find_problems({group: node}, ())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_named_as_in_torch_or_refused_with_a_reason(name: str) -> None:
    node: dict[str, Any] = {"_target_": f"torch.optim.{name}", "lr": 0.01}
    problems = check(node, "optimizer")
    if name in ("Optimizer", "Muon"):
        reason = {"Optimizer": "is only a base; name", "Muon": "trains only matrices, but a model has vectors"}[name]
        assert f"the class {reason}" in "".join(problems)
        return
    assert problems == []
    assert (node["_target_"].count("."), node["_partial_"]) == (3, True)
    parameter = nn.Parameter(torch.ones(2, 3))
    optimizer = make_optimizer_factory(node, ())([parameter])
    parameter.grad = torch.ones(2, 3).to_sparse() if name == "SparseAdam" else torch.ones(2, 3)
    optimizer.step(lambda: float(parameter.detach().sum()))
    assert bool((parameter < 1).all())


FLOATS, SIGNS, CLASSES = torch.rand(4, 3), torch.ones(4, 3), torch.tensor([0, 2, 1, 0])
PAIR = (torch.rand(4, 3), torch.rand(4, 3))
BATCHES: dict[str, tuple[Any, Any]] = {
    "CosineEmbeddingLoss": (PAIR, torch.ones(4)),
    "CrossEntropyLoss": (FLOATS, CLASSES),
    "GaussianNLLLoss": (PAIR, FLOATS),
    "MarginRankingLoss": ((torch.rand(4), torch.rand(4)), torch.ones(4)),
    "MultiLabelMarginLoss": (FLOATS, torch.tensor([[0, -1, 1]] * 4)),
    "MultiMarginLoss": (FLOATS, CLASSES),
    "NLLLoss": (FLOATS, CLASSES),
    "TripletMarginLoss": ((*PAIR, torch.rand(4, 3)), CLASSES),
    "TripletMarginWithDistanceLoss": ((*PAIR, torch.rand(4, 3)), CLASSES),
}
REFUSED = {
    "AdaptiveLogSoftmaxWithLoss": "has weights of its own; make it a part of your model",
    "CTCLoss": "wants the lengths of inputs and targets; write an objective of your own",
    "LinearCrossEntropyLoss": "has weights of its own, which belong to a model",
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.filterwarnings("ignore:reduction. .mean. divides:UserWarning")
def test_a_loss_is_an_objective_by_its_name_in_torch_or_refused_with_a_reason(name: str) -> None:
    node: dict[str, Any] = {"_target_": f"torch.nn.{name}"}
    node |= {"in_features": 3, "num_classes": 2} if name == "LinearCrossEntropyLoss" else {}
    problems = check(node, "objective")
    if name in REFUSED:
        assert REFUSED[name] in "".join(problems)
        return
    assert problems == []
    outputs, targets = BATCHES.get(name, (FLOATS, SIGNS))
    loss, metrics = apply_objective(adapt_objective(instantiate(node, "objective")), outputs, targets)
    arguments = outputs if isinstance(outputs, tuple) else (outputs,)
    if name == "GaussianNLLLoss":
        arguments = (outputs[0], targets, outputs[1])
    elif not name.startswith("Triplet"):
        arguments = (*arguments, targets)
    assert torch.equal(loss, getattr(nn, name)()(*arguments))
    assert [*metrics.values()] == [loss]


def adapted(name: str, **arguments: Any) -> Any:
    node = {"_target_": f"torch.nn.{name}", **arguments}
    assert check(node, "objective") == []
    return adapt_objective(instantiate(node, "objective"))


def test_cross_entropy_takes_the_classes_of_texts_and_images_last() -> None:
    logits, classes = torch.rand(2, 4, 5, 3), torch.randint(3, (2, 4, 5))
    expected = nn.CrossEntropyLoss()(logits.movedim(-1, 1), classes)
    objective = adapted("CrossEntropyLoss")
    assert torch.equal(objective(logits, classes)[0], expected)
    assert torch.equal(objective(logits.movedim(-1, 1), classes)[0], expected)
    probs = logits.softmax(-1)
    wanted = nn.CrossEntropyLoss()(logits.movedim(-1, 1), probs.movedim(-1, 1))
    assert torch.equal(objective(logits, probs)[0], wanted)


def test_a_weighted_mean_does_not_depend_on_the_micro_batches() -> None:
    objective = adapted("CrossEntropyLoss", weight=[1.0, 2.0, 5.0])
    assert isinstance(objective, CountsTargets) is True
    logits, classes = torch.rand(5, 4, 3), torch.randint(3, (5, 4))
    classes[0, 1:] = -100
    parts = [(logits[part], classes[part]) for part in (slice(0, 2), slice(2, 5))]
    counts = [objective.count_targets(each) for _, each in parts]
    losses = [objective(*part)[0] for part in parts]
    total = (torch.stack(losses) * torch.stack(counts)).sum() / torch.stack(counts).sum()
    assert torch.allclose(total, objective(logits, classes)[0])
    assert adapted("MSELoss").count_targets(classes) is None


@pytest.mark.parametrize(
    ("name", "outputs", "targets"),
    [
        ("BCEWithLogitsLoss", torch.rand(4, 1), torch.tensor([0, 1, 1, 0])),
        ("MSELoss", torch.rand(4, 1), torch.rand(4)),
        ("L1Loss", torch.rand(4, 3), torch.ones(4, 3, dtype=torch.int64)),
    ],
)
def test_numbers_may_be_whole_and_lack_the_last_dimension(name: str, outputs: Tensor, targets: Tensor) -> None:
    expected = getattr(nn, name)()(outputs.view(targets.shape), targets.float())
    assert torch.equal(adapted(name)(outputs, targets)[0], expected)


def test_shapes_that_torch_would_broadcast_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"MSELoss wants outputs and targets as the same shape, but got \[4, 3\] and \[4\]"
    ):
        adapted("MSELoss")(FLOATS, torch.rand(4))
    with pytest.raises(ValueError, match=r"CrossEntropyLoss wants outputs and targets as \[batch, ..., classes\] and"):
        adapted("CrossEntropyLoss")(torch.rand(4, 2, 3), CLASSES)


def test_short_and_full_names_are_one_configuration() -> None:
    short, full = (
        compose([f"optimizer._target_=torch.optim.{name}", "~optimizer._partial_"]) for name in ("NAdam", "nadam.NAdam")
    )
    assert short.config == full.config
    assert short.config["optimizer"]["_partial_"] is True


def test_a_sum_is_refused_as_it_grows_with_the_batch() -> None:
    assert check({"_target_": "torch.nn.MSELoss", "reduction": "sum"}, "objective") == [
        "objective.reduction=sum is no mean over the batch; set objective.reduction=mean"
    ]
    with pytest.raises(ConfigError, match="but a schedule here is a function of the step; choose one that"):
        compose(["schedule._target_=torch.optim.lr_scheduler.StepLR"])
