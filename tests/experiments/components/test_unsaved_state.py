"""State that no checkpoint holds, in components of a user's own."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import SGD

from experiments.components.assemble import Components
from experiments.components.unsaved_state import UnsavedState, check_model, find_changes
from experiments.core.errors import TrainingError
from modules.callback.base import Callback
from modules.parallel.base import TrainingSetup
from modules.parallel.single import Single
from modules.parallel.updates import make_updates
from modules.task.supervised import Supervised


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("band", torch.zeros(2), persistent=False)


class Objective:
    def __init__(self) -> None:
        self.smoothing = 0.1


class OwnTask(Supervised):
    """A task of a user."""


class OwnCallback(Callback):
    """A callback of a user; it saves its count, and not its sum."""

    def __init__(self) -> None:
        self.count, self.total = 0, 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}


class OwnTransform:
    """A gradient transform of a user."""


class OwnEngine(Single):
    """An engine of a user."""


class SavingEngine(OwnEngine):
    """An engine of a user that writes more into its checkpoints."""

    def snapshot(self) -> Callable[[Path], None]:
        critic, baseline = cast(Any, self).critic, cast(Any, self).baseline

        def write(folder: Path) -> None:
            save_file({"critic": critic.weight.detach().clone()}, folder / "critic.safetensors")
            (folder / "own.json").write_text(json.dumps({"baseline": baseline}))

        return write


@dataclass
class Given:
    """Live components, and what changes them in each step."""

    model: Net = field(default_factory=Net)
    objective: Any = field(default_factory=Objective)
    schedule: Any = field(default_factory=Objective)
    engine: Any = field(default_factory=Single)
    task: Any = field(default_factory=OwnTask)
    callback: Any = field(default_factory=OwnCallback)
    transform: Any = field(default_factory=OwnTransform)
    steps: int = 0

    def __post_init__(self) -> None:
        setup = TrainingSetup(
            self.model, self.objective, SGD, self.schedule, task=self.task, gradient_transforms=[self.transform]
        )
        self.components = Components(cast(Any, None), setup, cast(Any, None), self.engine, {"own": self.callback})

    def set_group_value(self, value: float) -> None:
        """Change a parameter group of the engine, as an optimizer that estimates its own learning rate does."""
        if not hasattr(self.engine, "updates"):
            self.engine.updates = make_updates(self.components.setup, self.model)
        self.engine.updates[0].optimizer.param_groups[0]["d"] = value

    def run(self, change: Callable[[Given], object], steps: int = 2) -> None:
        unsaved = UnsavedState(self.components)
        for number in range(1, steps + 1):
            self.steps = number
            with torch.no_grad():
                for tensor in self.model.state_dict().values():
                    tensor += 1
            change(self)
            unsaved.after_step(number)
        unsaved.before_save()


def _train(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()


def _second_optimizer(given: Given, where: str) -> None:
    owner = getattr(given, where)
    if given.steps == 1:
        object.__setattr__(owner, "critic", nn.Linear(3, 1))
        owner.critic_optimizer = torch.optim.Adam(owner.critic.parameters())
    _train(owner.critic, owner.critic_optimizer)


def _set(where: str, name: str, make: Callable[[], Any], use: Callable[[Any], object]) -> Callable[[Given], None]:
    """Make an attribute in the first step, and use it in each."""

    def change(given: Given) -> None:
        owner = getattr(given, where)
        if given.steps == 1:
            object.__setattr__(owner, name, make())
        use(getattr(owner, name))

    return change


def _count(where: str, name: str, by: Any) -> Callable[[Given], None]:
    return lambda given: setattr(getattr(given, where), name, getattr(getattr(given, where), name, by) * 2 + by)


LOST: dict[str, tuple[Callable[[Given], object], str]] = {
    "number of the model": (_count("model", "calls", 1), r"model\.calls: it is a plain int; make it a buffer"),
    "number of the objective": (_count("objective", "baseline", 0.5), r"objective\.baseline: it is a float outside"),
    "number of the schedule": (_count("schedule", "step", 1), r"schedule\.step: it is a int outside of the model"),
    "tensor of the model": (
        _count("model", "average", torch.ones(2)),
        r"model\.average: it is a plain Tensor; make it",
    ),
    "buffer": (
        lambda given: given.model.get_buffer("band").add_(1),
        r"model\.band: it is a buffer with persistent=False",
    ),
    "list": (_set("model", "seen", list, lambda seen: seen.append(1.5)), r"model\.seen: it is a plain list"),
    "deque": (
        _set("objective", "replay", lambda: deque([torch.zeros(2)]), lambda d: d[0].add_(1)),
        r"objective\.replay",
    ),
    "generator of torch": (
        _set("objective", "noise", torch.Generator, lambda g: torch.rand(1, generator=g)),
        r"objective\.noise: it is a random generator; draw from the global generators",
    ),
    "generator of NumPy": (_set("model", "rng", lambda: np.random.default_rng(0), lambda g: g.random()), r"model\.rng"),
    "old generator of NumPy": (
        _set("model", "rng", lambda: np.random.RandomState(0), lambda g: g.rand()),
        r"model\.rng",
    ),
    "generator of Python": (_set("model", "rng", lambda: random.Random(0), lambda g: g.random()), r"model\.rng"),
    "schedule of torch": (
        _set(
            "objective",
            "decay",
            lambda: torch.optim.lr_scheduler.StepLR(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), 5),
            lambda each: (each.optimizer.step(), each.step()),
        ),
        r"objective\.decay",
    ),
    "module in a list": (
        _set("model", "experts", lambda: [nn.Linear(3, 2)], lambda each: each[0].weight.data.add_(1)),
        r"model\.experts\[0\]\.weight: it is a tensor of a module that is no part of the model",
    ),
    "object in an object": (
        _set("objective", "teacher", lambda: Objective(), lambda each: setattr(each, "smoothing", each.smoothing + 1)),
        r"objective\.teacher\.smoothing",
    ),
    "second optimizer of an engine": (
        lambda given: _second_optimizer(given, "engine"),
        r"parallel\.critic_optimizer: it is a Adam of the engine; write it in `snapshot`",
    ),
    "second optimizer of an objective": (
        lambda given: _second_optimizer(given, "objective"),
        r"objective\.critic_optimizer: it is a Adam outside of the model",
    ),
    "number of a task": (_count("task", "baseline", 0.5), r"task\.baseline: it is a float outside of the model"),
    "number of a callback": (
        _count("callback", "total", 0.5),
        r"callback\.own\.total: it is a float of a callback; return it from `state_dict`",
    ),
    "tensor of a callback that is changed in place": (
        _set("callback", "sums", lambda: torch.zeros(2), lambda each: each.add_(1)),
        r"callback\.own\.sums: it is a Tensor of a callback",
    ),
    "object in a callback": (
        _set(
            "callback", "held", lambda: [Objective()], lambda each: setattr(each[0], "smoothing", each[0].smoothing + 1)
        ),
        r"callback\.own\.held",
    ),
    "text of a callback": (
        lambda given: setattr(given.callback, "phase", f"phase {given.steps}"),
        r"callback\.own\.phase: it is a str of a callback",
    ),
    "first value of a callback": (
        lambda given: setattr(given.callback, "best", None if given.steps == 1 else 0.3),
        r"callback\.own\.best",
    ),
    "attribute that a callback makes later": (
        lambda given: setattr(given.callback, f"sum_{given.steps // 2}", torch.ones(3)),
        r"callback\.own\.sum_1",
    ),
    "number of a gradient transform": (
        _count("transform", "norm", 0.5),
        r"gradient\[0\]\.norm: it is a float of a gradient transform, which keeps no state",
    ),
    "number of a parameter group": (
        lambda given: given.set_group_value(given.steps),
        r"optimizer\.train\[0\]: the optimizer changes a value of its parameter group, and a checkpoint holds only",
    ),
    "weight of an engine": (lambda given: _second_optimizer(given, "engine"), r"parallel\.critic\.weight"),
}


@pytest.mark.parametrize("kind", LOST)
def test_state_that_no_checkpoint_holds_is_reported_with_its_path(kind: str) -> None:
    change, message = LOST[kind]
    with pytest.raises(TrainingError, match=message):
        Given(engine=OwnEngine()).run(change)


class Cached(Net):
    recomputed = ("attention",)


HELD: dict[str, tuple[Callable[[Given], object], Callable[[], Given]]] = {
    "parameters and buffers": (lambda given: None, Given),
    "a cache made at first use": (
        lambda given: setattr(given.model, f"mask_{given.steps}", torch.ones(3)),
        Given,
    ),
    "a value made anew": (lambda given: setattr(given.model, "mask", torch.ones(3)), Given),
    "a cache that is declared": (_count("model", "attention", 1.0), lambda: Given(model=Cached())),
    "a frozen teacher": (
        _set("model", "teachers", lambda: [nn.Linear(3, 2)], lambda each: each[0](torch.ones(1, 3))),
        Given,
    ),
    "what a callback saves": (_count("callback", "count", 1), Given),
    "the model in the objective": (lambda given: setattr(given.objective, "model", given.model), Given),
    "the attributes of the engine of Lathe": (_count("engine", "done", 1), Given),
    "a part of a checkpoint of one's own": (
        lambda given: (
            _set("engine", "critic", lambda: nn.Linear(3, 1), lambda each: each.weight.data.add_(1))(given),
            _count("engine", "baseline", 0.25)(given),
        ),
        lambda: Given(engine=SavingEngine()),
    ),
}


@pytest.mark.parametrize("kind", HELD)
def test_other_attributes_are_left_alone(kind: str) -> None:
    change, make = HELD[kind]
    make().run(change)


def test_state_that_changes_rarely_is_found_before_the_first_checkpoint() -> None:
    def change(given: Given) -> None:
        given.objective.epoch = given.steps // 4

    Given().run(change, steps=3)
    with pytest.raises(TrainingError, match=r"objective\.epoch"):
        Given().run(change, steps=4)


def test_state_that_only_an_evaluation_changes_is_found_before_the_checkpoint_after_it() -> None:
    given = Given()
    unsaved = UnsavedState(given.components)
    for number in range(1, 5):
        unsaved.after_step(number)
    unsaved.before_save()
    given.callback.total = 0.5  # of an evaluation
    unsaved.before_save()
    with pytest.raises(TrainingError, match=r"callback\.own\.total"):
        unsaved.before_save(is_evaluated=True)


def test_the_attributes_that_work_changes_are_named() -> None:
    objective = Objective()
    assert find_changes(objective, "objective", lambda: None) == []
    changed = find_changes(objective, "objective", lambda: setattr(objective, "smoothing", 0.2))
    assert changed == ["objective.smoothing"]


def test_extra_state_of_a_module_is_refused_before_training() -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> Tensor:
            return torch.ones(1)

    check_model(Net())
    with pytest.raises(
        ValueError, match=r"model\.1 \(Extra\) has get_extra_state, but a checkpoint holds only the parameters"
    ):
        check_model(nn.Sequential(Net(), Extra(3, 2)))
