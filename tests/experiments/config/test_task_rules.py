"""What tasks, callbacks and gradient transforms need, the engine has to serve."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.plan import check
from experiments.config.compose import compose
from experiments.config.rules.base import ConfigView
from experiments.config.rules.task import DESCRIPTIONS, _samples, read_names
from experiments.core.errors import InputError
from experiments.plan.plan import make_plan
from experiments.trial.trial import trial_id
from modules.task.base import Need

CLOSURE = "an optimizer that computes the loss several times"
PIPELINE = ("parallel=pipeline", "hardware.devices_per_node=2")
LBFGS = (
    "optimizer=sgd", "optimizer._target_=torch.optim.lbfgs.LBFGS",
    *(f"~optimizer.{key}" for key in ("momentum", "nesterov", "weight_decay")),
)  # fmt: skip
NONE, MASKS = "modules.evaluator.no_metrics.NoMetrics", "modules.evaluator.segmentation.Segmentation"
TWO = "hardware.devices_per_node=2"
OWN = """
from torch.optim import LBFGS, SGD, AdamW
from modules.callback.base import Callback
from modules.task.supervised import Supervised
from modules.parallel.single import Single


class Task(Supervised):
    needs = ("inputs", "phases")


class Narrow(Task):
    needs = ("inputs",)


class Whole(Supervised):
    needs = ("inputs", "whole_model")


class Inherits(Task):
    pass


class OwnLoss(Supervised):
    def loss(self, model, batch, context): ...


class OwnWeight(Supervised):
    def weight(self, batch): ...


class Engine:
    def __init__(self) -> None:
        pass


class Subclass(Single):
    pass


class Closure(SGD):
    needs_closure = True


class OwnLbfgs(LBFGS):
    pass


class OwnAdamW(AdamW):
    pass


class NormalisedSteps(SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad /= parameter.grad.norm()
        return super().step(closure)
"""


@pytest.fixture(autouse=True)
def _own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needy.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


def problems_of(*overrides: str) -> list[str]:
    try:
        make_plan(compose(overrides, trust=["needy"]).config)
    except InputError as err:
        return err.problems
    return []


@pytest.mark.parametrize(
    ("overrides", "needed"),
    [
        (("task._target_=needy.Task", *PIPELINE), "the inputs besides the outputs and several updates in a step"),
        (("task._target_=needy.Task", "parallel=zero1", TWO), "several updates in a step"),
        (("task._target_=needy.Inherits", "parallel=zero1", TWO), "several updates in a step"),
        (("task._target_=needy.Narrow", *PIPELINE), "the inputs besides the outputs"),
        (("task._target_=needy.OwnLoss", *PIPELINE), "the inputs besides the outputs"),
        (("task._target_=needy.Task", "parallel=async", TWO), "several updates in a step"),
        (("callback=ema", "parallel=async", TWO), "the whole model on each rank"),
        (("callback=lr_finder", "parallel=zero1", TWO), "trial steps before the training"),
        (
            ("callback=histograms", "parallel=zero1", TWO),
            "the whole gradients on each rank",
        ),
        (("gradient=noise", "parallel=zero0", TWO), "the whole gradients on each rank"),
        (("optimizer=sgd", "optimizer._target_=needy.Closure", "parallel=zero0", TWO), CLOSURE),
        ((*LBFGS, "parallel=zero0", TWO), CLOSURE),
        ((*LBFGS, "optimizer._target_=needy.OwnLbfgs", "parallel=zero1", TWO), CLOSURE),
        ((*LBFGS, "parallel=async", TWO), CLOSURE),
        (("task._target_=needy.Narrow", "++parallel={_target_: needy.Engine}"), "the inputs besides the outputs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_an_engine_that_does_not_serve_a_need_is_refused(overrides: tuple[str, ...], needed: str) -> None:
    (problem,) = problems_of("model=mlp", *overrides)
    assert f" needs {needed}" in problem
    assert ", which parallel._target_=" in problem
    assert problem.endswith(" does not serve; use parallel=single or data")


@pytest.mark.parametrize(
    ("overrides", "needed", "limit"),
    [
        (("callback=ema", "parallel=zero3", TWO), "the whole model on each rank", "parallel.stage of at most 2; lower it"),
        (("task._target_=needy.Narrow", "parallel=model", TWO), "the inputs besides the outputs", "parallel.model of at most 1"),
        (("task._target_=needy.Whole", "parallel=model", "parallel.stage=3", TWO), "the inputs besides the outputs and the whole",
         "parallel.model of at most 1 and parallel.stage of at most 2; lower them"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_an_engine_that_serves_a_need_only_with_other_settings_is_refused(
    overrides: tuple[str, ...], needed: str, limit: str
) -> None:
    (problem,) = problems_of("model=mlp", *overrides)
    assert f" needs {needed}" in problem
    assert f", which parallel._target_=modules.parallel.deepspeed_zero.Zero serves only with {limit}" in problem
    assert problem.endswith(", or use parallel=single or data")


@pytest.mark.parametrize(
    "overrides",
    [
        ("task._target_=needy.Task", "callback=[ema,early_stopping]", "gradient=noise"),
        ("task._target_=needy.Task", "parallel=data", TWO),
        ("task._target_=needy.Narrow", "parallel=zero3", TWO),
        ("task._target_=needy.Whole", "callback=ema", "parallel=zero2", TWO),
        ("callback=early_stopping", *PIPELINE),
        ("task._target_=needy.OwnWeight", *PIPELINE),
        ("task._target_=needy.Task", "parallel._target_=needy.Subclass"),
    ],
    ids=" ".join,
)
def test_an_engine_that_serves_all_needs_is_accepted(overrides: tuple[str, ...]) -> None:
    assert problems_of("model=mlp", *overrides) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("callback=lr_finder", "task._target_=needy.Task"),
            "task._target_=needy.Task, which has several updates in a step",
        ),
        (
            ("callback=lr_finder", *LBFGS),
            "optimizer._target_=torch.optim.lbfgs.LBFGS, which has an optimizer that computes",
        ),
        (
            ("callback=samples", "evaluator=none"),
            "Supervised has no method `samples` and modules.evaluator.no_metrics.NoMetrics",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_callback_that_cannot_serve_the_task_is_refused(overrides: tuple[str, ...], message: str) -> None:
    (problem,) = [each for each in problems_of("model=mlp", *overrides) if "best_metric" not in each]
    assert message in problem
    assert problem.endswith("remove the callback")


@pytest.mark.parametrize(
    "parallel", [("parallel=zero1", TWO), ("parallel=async", "parallel.num_servers=2"), PIPELINE], ids=str
)
def test_an_optimizer_that_slices_of_a_weight_would_change_is_refused_by_trying_it(parallel: tuple[str, ...]) -> None:
    def config_of(optimizer: str, name: str) -> dict[str, Any]:
        overrides = ["model=mlp", f"optimizer={optimizer}", *parallel, f"optimizer._target_=needy.{name}"]
        return compose(overrides, trust=["needy"]).config

    check(config_of("adamw", "OwnAdamW"), ["needy"])
    with pytest.raises(
        InputError, match="optimizer NormalisedSteps gives another result on slices of a weight than on"
    ):
        check(config_of("sgd", "NormalisedSteps"), ["needy"])


def test_one_of_several_evaluators_is_enough_for_samples() -> None:
    nodes = {"samples": {"_target_": "modules.callback.samples.Samples"}}
    assert len(_samples(ConfigView({"task": {}, "callback": nodes, "evaluator": {"_target_": NONE}}, []))) == 1
    within = {"_target_": "modules.evaluator.several.Several", "evaluators": {"masks": {"_target_": MASKS}}}
    assert _samples(ConfigView({"task": {}, "callback": nodes, "evaluator": within}, [])) == []


def test_epsilon_without_its_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", hide_opacus(importlib.util.find_spec))
    (problem,) = problems_of("model=mlp", "task=dp_sgd")
    assert problem.startswith(
        "task.delta=1e-05 needs the package 'opacus' to compute epsilon, which is not installed; `pip install"
    )
    assert problems_of("model=mlp", "task=dp_sgd", "task.delta=null") == []
    (problem,) = problems_of("model=mlp", "task=dp_sgd", "task.delta=null", "parallel=zero1", TWO)
    assert "needs a gradient for each example" in problem


def hide_opacus(find: Callable[..., Any]) -> Callable[..., Any]:
    return lambda name, *package: None if name == "opacus" else find(name, *package)


def test_a_task_that_trains_nothing_takes_no_steps() -> None:
    make_plan(compose(["task=evaluation_only", "max_steps=0"]).config)
    with pytest.raises(InputError, match=r"EvaluationOnly trains nothing; set max_steps=0, or choose another task"):
        make_plan(compose(["task=evaluation_only"]).config)


def test_every_need_has_a_description() -> None:
    assert sorted(DESCRIPTIONS) == sorted(Need.__args__)  # type: ignore[attr-defined]
    assert read_names("needy.Missing", "needs") == read_names("needy_missing.Task", "needs") == ()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+optimizer.groups=3"], "optimizer.groups=3 is not a list; write `groups: [{match:"),
        (["+optimizer.groups=[{weight_decay: 0}]"], "has no list of patterns under `match`"),
        (["+optimizer.groups=[{match: '*.bias', lr: 0.1}]"], "has no list of patterns under `match`"),
        (["+optimizer.groups=[{match: ['*.bias']}]"], "changes no value of the optimizer"),
        (
            ["+optimizer.groups=[{match: ['*.bias'], weight_decya: 0}]"],
            "AdamW has no argument 'weight_decya'; did you mean",
        ),
        (["+optimizer.groups=[{match: ['*.bias'], weight_decay: no}]"], "groups[0].weight_decay"),
        (["+optimizer.phases=[a]"], "optimizer.phases=['a'] is not a map"),
        (["+optimizer.phases={critic: 3}"], "optimizer.phases.critic=3 is not a map"),
        (["+optimizer.phases={critic: {lrr: 3}}"], "AdamW has no argument 'lrr'; did you mean 'lr'"),
        (["+optimizer.phases={critic: {_target_: os.system}}"], "os.system is not on the list of code that may run"),
        (["callback=[ema,emma]"], "'emma', which is not an option of the group 'callback'; did you mean 'ema'"),
        (["callback=emma"], "callback=emma is not an option of the group 'callback'; did you mean 'ema'"),
        (["+callback.own._target_=torch.optim.SGD"], "callback.own._target_=torch.optim.SGD"),
        (["callback=ema", "callback.ema.decya=1"], "Ema has no argument 'decya'; did you mean 'decay'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_in_groups_phases_or_callbacks_is_reported(overrides: list[str], message: str) -> None:
    assert message in "\n".join(problems_of(*overrides))


def test_new_keys_with_their_defaults_change_no_trial_id() -> None:
    config = compose(["model=mlp"]).config
    older = {key: value for key, value in config.items() if key not in ("task", "adapter", "callback", "gradient")}
    assert trial_id(config) == trial_id(older)
    changed = [compose(["model=mlp", override]).config for override in ("callback=ema", "gradient=noise")]
    assert len({trial_id(each) for each in (config, *changed)}) == 3


def test_a_phase_has_no_phases_of_its_own() -> None:
    assert problems_of("+optimizer.phases.a.phases.b.lr=0.1") == [
        "optimizer.phases.a.phases: a phase has no phases of its own; write them below optimizer.phases"
    ]


@pytest.mark.parametrize(
    "place",
    [
        "optimizer.phases.a={_target_: os.system}", "optimizer.phases.a={schedule: {_target_: os.system}}",
        "optimizer.phases.a.lr={_target_: os.system}", "optimizer.schedule={_target_: os.system}",
        "optimizer.groups=[{match: [x], lr: {_target_: os.system}}]", "callback.a={_target_: os.system}",
        "gradient.a={_target_: os.system}", "tracking.trackers.a={_target_: os.system}",
    ],
)  # fmt: skip
def test_untrusted_code_is_refused_at_any_depth(place: str) -> None:
    assert any("is not on the list of code that may run" in problem for problem in problems_of(f"+{place}"))
