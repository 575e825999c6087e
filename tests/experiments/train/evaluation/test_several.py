"""Several evaluators and evaluation sets: their metrics, their names, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from experiments.cli.main import main
from experiments.components.assemble import assemble
from experiments.config.compose import compose
from experiments.core.errors import ConfigError, InputError
from experiments.plan.estimate import make_layout
from experiments.plan.plan import make_plan
from experiments.run.metrics import read_last_values
from experiments.train.evaluation.evaluator_check import check_evaluator
from experiments.trial.trial import trial_id
from modules.data.base import Tensors
from modules.evaluator.accuracy import Accuracy
from modules.evaluator.several import Several
from modules.parallel.base import EngineConfig
from modules.parallel.forward import MetricAccumulator
from modules.parallel.process_groups import ProcessGroups
from modules.task.base import Evaluation

SEVERAL = (
    "model=softmax", "tracking=off", "system_every_s=null", "evaluator=several", "evaluator@evaluator.evaluators.top5=top_k",
    "data@evaluation_sets.same=digits", "checkpoint.best_metric=val/same/top5/accuracy_top5",
)  # fmt: skip
ALONE = ProcessGroups(EngineConfig(1, 1, None, "fp32", False, "cpu", 1))


class Twice:
    """Computes a metric that the task has too."""

    def update(self, outputs: Tensors, targets: Tensors) -> Tensor:
        return torch.ones(1)

    def compute(self, sums: Tensor) -> dict[str, float]:
        return {"loss_nats": float(sums[0])}


def check(*overrides: str, evaluator: object = None) -> None:
    config = compose([*SEVERAL, *overrides]).config
    components = assemble(config)
    components.evaluator = evaluator or components.evaluator  # type: ignore[assignment]
    plan = make_plan({**config, "evaluation_sets": {}})  # the files of a set need not be here
    check_evaluator(components, make_layout(config, plan), config["checkpoint"]["best_metric"])


def test_each_evaluator_measures_each_set(tmp_path: Path) -> None:
    assert main(["run", "--here", *SEVERAL, "max_steps=2", f"runs_dir={tmp_path}"]) == 0
    folder = next(tmp_path.glob("single/*/trial.yaml")).parent
    metrics = read_last_values(folder)
    for split in ("val", "test", "delivered/val"):
        top1 = metrics[f"{split}/accuracy/accuracy_top1"]
        assert top1 == metrics[f"{split}/top5/accuracy_top1"] == metrics[f"{split}/same/accuracy/accuracy_top1"]
        assert metrics[f"{split}/loss_nats"] == metrics[f"{split}/same/loss_nats"]
        assert metrics[f"{split}/top5/accuracy_top5"] == metrics[f"{split}/same/top5/accuracy_top5"] > top1
    assert '"split":"same/val"' in (folder / "attempts/1/journal.jsonl").read_text()


def test_sums_of_several_evaluators_are_those_of_each_alone() -> None:
    outputs, targets = torch.rand(7, 5, generator=torch.Generator().manual_seed(1)), torch.arange(7) % 5
    parts = {"first": Accuracy([1]), "others": Accuracy([2, 3])}

    def measure(evaluator: Several | Accuracy) -> dict[str, float]:
        accumulator = MetricAccumulator(evaluator)
        for rows in (slice(0, 4), slice(4, 7)):
            accumulator.add(Evaluation({}, outputs[rows], targets[rows]), targets[rows], is_counted=True)
        return accumulator.compute(ALONE)

    expected = {f"{name}/{metric}": value for name, part in parts.items() for metric, value in measure(part).items()}
    assert measure(Several(parts)) == expected


def test_a_metric_does_not_replace_another_one() -> None:
    with pytest.raises(ValueError, match="evaluator Twice: the task Supervised has a metric loss_nats too"):
        check(evaluator=Twice())
    with pytest.raises(ValueError, match="val/same/loss_nats would be the name of two metrics"):
        check(evaluator=Several({"same": Twice()}))
    accumulator = MetricAccumulator(Twice())
    mean = {"loss_nats": torch.tensor(1.0)}
    accumulator.add(Evaluation(mean, torch.zeros(2), torch.zeros(2)), torch.zeros(2), is_counted=True)
    with pytest.raises(ValueError, match="loss_nats: the task and the evaluator both compute a metric of this name"):
        accumulator.compute(ALONE)


def test_wrong_sets_and_metrics_are_refused() -> None:
    with pytest.raises(ValueError, match=r"use one of val/accuracy/accuracy_top1, .*val/same/top5/accuracy_top5"):
        check("checkpoint.best_metric=val/top5")
    with pytest.raises(ValueError, match=r"evaluation_sets\.other does not fit the model or the evaluator"):
        check("data@evaluation_sets.other=mnist")
    with pytest.raises(
        ConfigError, match=r"data@net=mnist is not a place for another data; write data@evaluation_sets.NAME="
    ):
        compose(["data@net=mnist"])
    with pytest.raises(InputError, match=r"evaluation_sets\.far.folder=mnist: .* are not in /nowhere/mnist"):
        make_plan(compose(["data@evaluation_sets.far=mnist", "data_root=/nowhere"]).config)
    with pytest.raises(ValueError, match="Several wants at least one evaluator"):
        Several({})


def test_sets_are_part_of_the_id_and_their_absence_is_not() -> None:
    config = compose(["model=softmax"]).config
    assert trial_id({key: value for key, value in config.items() if key != "evaluation_sets"}) == trial_id(config)
    assert trial_id(compose(["model=softmax", "data@evaluation_sets.same=digits"]).config) != trial_id(config)


def test_the_best_metric_is_that_of_the_first_evaluator() -> None:
    checkpoint = compose(["model=softmax", "evaluator=several"]).config["checkpoint"]
    assert (checkpoint["best_metric"], checkpoint["best_mode"]) == ("val/accuracy/accuracy_top1", "max")
