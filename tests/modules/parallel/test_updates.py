"""Several updates in a step: phases, their optimizers and schedules, and optimizers that need a closure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lbfgs import LBFGS

from modules.data.base import Tree
from modules.gradient.centralize import Centralize
from modules.gradient.noise import Noise
from modules.optimizer.base import (
    OptimizerFactory,
    ParameterGroup,
    find_schedule,
    is_elementwise,
    list_learning_rates,
    needs_closure,
)
from modules.parallel.base import EngineConfig, TrainingSetup, find_unserved
from modules.parallel.single import Single
from modules.parallel.updates import make_updates
from modules.schedule.constant import Constant
from modules.schedule.step import Step
from modules.task.base import Loss, Phase, StepContext, Task
from modules.task.supervised import Supervised

BOTH = (Phase("critic", ("critic",)), Phase("actor", ("actor.",), every_steps=2))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.actor, self.critic = nn.Linear(3, 2), nn.Linear(2, 1)


class Alternating(Task):
    needs = ("whole_model", "phases")

    def __init__(self, *phases: Phase) -> None:
        self.own = phases

    def phases(self) -> tuple[Phase, ...]:
        return self.own

    def loss(self, model: Any, batch: Tree, context: StepContext) -> Loss:
        noise = context.randn(len(batch["x"]), 2)
        loss = (model.critic(model.actor(batch["x"]) + noise) - batch["y"]).square().mean()
        return Loss(loss, {f"{context.phase}_loss": loss.detach()})


def make_setup(*phases: Phase, optimizer: Any = None) -> TrainingSetup:
    return TrainingSetup(
        Pair(), nn.MSELoss(), optimizer or partial(Adam, lr=0.01), Constant(), task=Alternating(*phases)
    )


def make_single(setup: TrainingSetup, **changes: Any) -> Single:
    single = Single()
    single.prepare(setup, EngineConfig(**{
        "num_steps": 9, "num_accumulation": 1, "grad_clip_norm": None, "precision": "fp32", "compile": False,
        "device": "cpu", "batch_size_per_device": 6, **changes,
    }))  # fmt: skip
    return single


def make_batch(step: int) -> Tree:
    generator = torch.Generator().manual_seed(step)
    return {"x": torch.randn(6, 3, generator=generator), "y": torch.randn(6, 1, generator=generator)}


def copy(single: Single) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in single.weights().items()}


def test_a_phase_trains_only_its_parameters_and_only_when_it_is_due() -> None:
    single = make_single(make_setup(*BOTH))
    before, names = copy(single), []
    for step in range(3):
        names.append(sorted(single.train_step(make_batch(step), step)))
        now = copy(single)
        changed = {name.partition(".")[0] for name in now if not torch.equal(now[name], before[name])}
        assert changed == ({"actor", "critic"} if step % 2 == 0 else {"critic"})
        before = now
    assert names == [["actor_loss", "critic_loss"], ["critic_loss"], ["actor_loss", "critic_loss"]]
    assert all(parameter.requires_grad for parameter in single.model.parameters())


def test_a_step_of_two_phases_is_that_of_a_hand_written_loop() -> None:
    single = make_single(make_setup(*BOTH), grad_clip_norm=0.5, seed=3)
    model, task = Pair(), Alternating(*BOTH)
    optimizers = {"critic": Adam(model.critic.parameters(), lr=0.01), "actor": Adam(model.actor.parameters(), lr=0.01)}
    for step in range(4):
        metrics = single.train_step(make_batch(step), step)
        for phase in BOTH:
            if step % phase.every_steps == 0:
                context = single.forward.split(make_batch(step), step, single.ranks, phase)[0].context
                model.zero_grad(set_to_none=True)
                task.loss(model, make_batch(step), context).mean.backward()  # type: ignore[no-untyped-call]
                own = getattr(model, phase.name).parameters()
                assert metrics[f"grad_norm_{phase.name}"] == nn.utils.clip_grad_norm_(own, 0.5)
                optimizers[phase.name].step()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, single.weights()[name]), name


def test_after_a_step_only_its_own_gradients_are_left() -> None:
    single = make_single(make_setup(*BOTH))
    owners = []
    for step in range(3):
        single.train_step(make_batch(step), step)
        owners.append({name.split(".")[0] for name, each in single.model.named_parameters() if each.grad is not None})
    assert owners == [{"critic", "actor"}, {"critic"}, {"critic", "actor"}]


def test_micro_batches_get_the_random_numbers_of_the_whole_batch() -> None:
    whole, parts = make_single(make_setup(*BOTH)), make_single(make_setup(*BOTH), num_accumulation=3)
    for step in range(3):
        one, other = (single.train_step(make_batch(step), step) for single in (whole, parts))
        assert {name: float(value) for name, value in other.items()} == pytest.approx(
            {name: float(value) for name, value in one.items()}, rel=1e-5
        )


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        (
            (Phase("a", ("actor",)),),
            r"parameter critic\.weight belongs to no phase of task Alternating; name it in one",
        ),
        ((Phase("a"), Phase("b", ("critic",))), r"parameter critic\.weight belongs to the phases a and b of task"),
        ((Phase("a"), Phase("a")), r"two phases of one name"),
        ((Phase("a"), Phase("b", ("head",))), r"phase 'b' of task .* its parameters begin with actor, critic"),
        ((Phase("a", every_steps=0),), r"phase 'a' of task Alternating runs every 0 steps; set every_steps to 1"),
    ],
    ids=["none", "two", "name", "unknown", "never"],
)
def test_phases_that_do_not_fit_the_model_are_refused(phases: tuple[Phase, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_single(make_setup(*phases))


def test_values_for_a_phase_that_the_task_does_not_have_are_refused() -> None:
    optimizer = OptimizerFactory(partial(Adam, lr=0.01), phases={"critc": OptimizerFactory(partial(SGD, lr=0.1))})
    with pytest.raises(ValueError, match=r"optimizer\.phases\.critc names no phase of .* are critic, actor; correct"):
        make_single(make_setup(*BOTH, optimizer=optimizer))


def test_an_engine_without_phases_refuses_a_task_with_two_even_if_it_declares_no_need() -> None:
    class Forgetful(Supervised):
        def phases(self) -> tuple[Phase, ...]:
            return BOTH

    class OwnLoss(Supervised):
        def loss(self, model: nn.Module, batch: Tree, context: StepContext) -> Loss:
            return super().loss(model, batch, context)

    for task, need in (Forgetful(), "phases"), (OwnLoss(), "inputs"):
        (problem,) = find_unserved(task, object())
        assert f"task {type(task).__name__} needs {need}, which the engine object does not serve" in problem
    assert find_unserved(Supervised(), object()) == []


def test_a_checkpoint_holds_the_optimizers_of_all_phases(tmp_path: Path) -> None:
    factory = OptimizerFactory(
        partial(Adam, lr=0.01), phases={"critic": OptimizerFactory(partial(SGD, lr=0.1, momentum=0.9))}
    )
    whole = make_single(make_setup(*BOTH, optimizer=factory))
    for step in range(3):
        whole.train_step(make_batch(step), step)
    write = whole.snapshot()
    assert write is not None
    write(tmp_path)
    resumed = make_single(make_setup(*BOTH, optimizer=factory))
    resumed.load(tmp_path)
    for step in range(3, 6):
        one, other = (single.train_step(make_batch(step), step) for single in (whole, resumed))
        assert one == other
    other_kind = make_single(make_setup(*BOTH))
    with pytest.raises(ValueError, match=r"optimizer: saved from SGD, Adam, this run has Adam, Adam"):
        other_kind.load(tmp_path)


class Sign:
    def transform(self, gradients: Mapping[str, Tensor], step: int, generator: torch.Generator) -> None:
        for gradient in gradients.values():
            gradient.sign_()


def test_transforms_change_the_gradients_of_a_phase_in_order_before_they_are_clipped() -> None:
    setup = make_setup(*BOTH, optimizer=partial(SGD, lr=0.1))
    setup.gradient_transforms = (Noise(1.0), Sign())
    single = make_single(setup, grad_clip_norm=100.0)
    before = copy(single)
    metrics = single.train_step(make_batch(0), 0)
    for name, weight in copy(single).items():
        torch.testing.assert_close((weight - before[name]).abs(), torch.full_like(weight, 0.1))
    assert float(metrics["grad_norm_critic"]) == pytest.approx(3**0.5)
    assert float(metrics["grad_norm_actor"]) == pytest.approx(8**0.5)


def test_a_centralized_gradient_has_a_mean_of_zero_for_each_output() -> None:
    gradients = {"weight": torch.randn(3, 2, 5), "bias": torch.arange(3.0)}
    Centralize().transform(gradients, 0, torch.Generator())
    torch.testing.assert_close(gradients["weight"].mean(dim=(1, 2)), torch.zeros(3))
    assert torch.equal(gradients["bias"], torch.arange(3.0))


class WithClosure(SGD):
    needs_closure = True


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (partial(SGD, lr=0.1), False),
        (partial(Adam, lr=0.1), False),
        (LBFGS, True),
        (partial(WithClosure, lr=0.1), True),
    ],
    ids=["SGD", "Adam", "LBFGS", "class attribute"],
)
def test_an_optimizer_that_needs_a_closure_is_recognised(optimizer: Any, expected: bool) -> None:
    made: Optimizer = optimizer([nn.Parameter(torch.ones(2))])
    assert needs_closure(made) is expected


def test_lbfgs_minimises_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    optimizer = partial(LBFGS, lr=1.0, max_iter=3, history_size=4, line_search_fn="strong_wolfe")
    whole, folder = make_single(make_setup(Phase(), optimizer=optimizer), num_accumulation=2), tmp_path / "state"
    losses = []
    for step in range(6):
        if step == 3:
            folder.mkdir()
            write = whole.snapshot()
            assert write is not None
            write(folder)
        losses.append(float(whole.train_step(make_batch(0), 0)["train_loss"]))
    assert losses[5] < losses[0] / 2
    resumed = make_single(make_setup(Phase(), optimizer=optimizer), num_accumulation=2)
    resumed.load(folder)
    assert [float(resumed.train_step(make_batch(0), 0)["train_loss"]) for _ in range(3)] == losses[3:]


def test_parameters_get_the_values_of_the_first_group_that_matches() -> None:
    groups = [
        ParameterGroup(("*.bias",), {"lr": 0.5}),
        ParameterGroup(("critic.*",), {"lr": 0.25, "weight_decay": 0.1}),
    ]
    (update,) = make_updates(make_setup(Phase(), optimizer=OptimizerFactory(partial(SGD, lr=1.0), groups)), Pair())
    update.set_learning_rate(0, 9)
    found = [(group["lr"], group["weight_decay"], len(group["params"])) for group in update.optimizer.param_groups]
    assert found == [(1.0, 0, 1), (0.5, 0, 2), (0.25, 0.1, 1)]


def test_a_pattern_without_a_parameter_is_refused() -> None:
    factory = OptimizerFactory(partial(SGD, lr=1.0), [ParameterGroup(("*.bias", "norm*"), {"lr": 0.5})])
    with pytest.raises(ValueError, match=r"optimizer\.groups: match=\['norm\*'\] matches no parameter of the model"):
        make_updates(make_setup(Phase(), optimizer=factory), Pair())


def test_a_phase_may_have_a_schedule_of_its_own() -> None:
    own = OptimizerFactory(partial(SGD, lr=1.0), schedule=Step(decay_factor=0.1, decay_every_steps=4))
    setup = make_setup(*BOTH, optimizer=OptimizerFactory(partial(SGD, lr=1.0), phases={"actor": own}))
    updates = make_updates(setup, Pair())
    for update in updates:
        update.set_learning_rate(4, 9)
    assert [update.optimizer.param_groups[0]["lr"] for update in updates] == pytest.approx([1.0, 0.1])


def test_each_learning_rate_of_its_own_has_a_curve() -> None:
    common, step = Constant(), Step(decay_factor=0.1, decay_every_steps=4)
    make = partial(SGD, lr=1.0)
    groups = [ParameterGroup(("*.bias",), {"weight_decay": 0}), ParameterGroup(("critic.*",), {"lr": 0.25})]
    factory = OptimizerFactory(make, groups)

    def curves(factory: Any, *phases: str) -> dict[str, float]:
        return {rate.name: round(rate.at(4, 9), 9) for rate in list_learning_rates(factory, common, phases)}

    assert curves(make, "train") == curves(factory.make, "train") == {"learning_rate": 1.0}
    assert curves(factory, "train") == {"learning_rate": 1.0, "learning_rate_group1": 0.25}
    scheduled = OptimizerFactory(make, phases={"train": OptimizerFactory(make, schedule=step)})
    assert curves(scheduled, "train") == {"learning_rate": 0.1}
    assert find_schedule(scheduled) is step  # servers of asynchronous replicas ask for it
    assert find_schedule(make) is find_schedule(factory) is None
    two = OptimizerFactory(make, phases={"actor": OptimizerFactory(partial(SGD, lr=3.0), groups, schedule=step)})
    assert curves(two, "critic", "actor") == {
        "learning_rate": 1.0, "learning_rate_actor": 0.3, "learning_rate_actor_group1": 0.025,
    }  # fmt: skip
    same = OptimizerFactory(make, phases={"actor": OptimizerFactory(partial(SGD, lr=1.0, momentum=0.5))})
    assert curves(same, "critic", "actor") == {"learning_rate": 1.0}


class OwnAdam(Adam):
    """A user's subclass under another name."""


class NormalisedTogether(SGD):
    """Divides all gradients by their common norm."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        nn.utils.clip_grad_norm_(self.param_groups[0]["params"], 0.1)
        super().step(closure)


class Normalised(SGD):
    """Divides by the norm of each weight's gradient, so a slice gets another step."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad /= parameter.grad.norm()
        return super().step(closure)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        *(
            (partial(kind, lr=0.1), True)
            for kind in (SGD, Adam, OwnAdam, torch.optim.AdamW, torch.optim.Adagrad, torch.optim.Rprop)
        ),
        *(
            (partial(kind, lr=0.1), False)
            for kind in (Normalised, NormalisedTogether, LBFGS, torch.optim.SparseAdam, torch.optim.Adafactor)
        ),
    ],
    ids=lambda value: getattr(getattr(value, "func", None), "__name__", str(value)),
)
def test_an_optimizer_is_elementwise_if_slices_get_the_steps_of_the_whole(optimizer: Any, expected: bool) -> None:
    assert is_elementwise(optimizer) is expected
