"""Makes the optimizers of a training: with groups of parameters by name, and other values for single phases."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from modules.schedule.base import Schedule

Make = Callable[[Iterable[nn.Parameter]], Optimizer]
"""Makes an optimizer of parameters."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with other values of the optimizer."""

    match: tuple[str, ...]
    """Patterns of their names, such as ``*.bias``; a parameter belongs to the first group that matches it."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the optimizer, such as ``weight_decay``."""


@dataclass(frozen=True)
class OptimizerFactory:
    """Makes optimizers, as the node `optimizer` describes them."""

    make: Callable[..., Optimizer]
    groups: Sequence[ParameterGroup] = ()
    phases: Mapping[str, OptimizerFactory] = field(default_factory=dict)
    """For phases that differ, by name."""
    schedule: Schedule | None = None
    """Of the learning rate; None: the one of the experiment."""

    def __call__(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Make an optimizer of one group, whatever the names."""
        return self.make(parameters)

    def make_groups(self, named: Mapping[str, nn.Parameter]) -> Optimizer:
        """Make an optimizer of named parameters, which may be a part of the model's."""
        rest, groups = dict(named), list[dict[str, Any]]()
        for group in self.groups:
            own = [name for name in rest if any(fnmatchcase(name, pattern) for pattern in group.match)]
            groups.append({"params": [rest.pop(name) for name in own], **group.values})
        groups = [{"params": [*rest.values()]}, *groups]
        return self.make([group for group in groups if group["params"]])

    def find_unused_patterns(self, names: Collection[str]) -> list[str]:
        """Problems of patterns that match no parameter of the model."""
        unused = [
            pattern
            for factory in (self, *self.phases.values())
            for group in factory.groups
            for pattern in group.match
            if not any(fnmatchcase(name, pattern) for name in names)
        ]
        shown = ", ".join([*names][:5]) + (" ..." if len(names) > 5 else "")
        rule = f"matches no parameter of the model, whose parameters are {shown}; correct the pattern"
        return [f"optimizer.groups: match=[{pattern!r}] {rule}" for pattern in dict.fromkeys(unused)]

    def find_unused_phases(self, phases: Collection[str]) -> list[str]:
        """Problems of values for phases that the task does not have."""
        rule = f"names no phase of the task, whose phases are {', '.join(phases)}; correct the name, or remove the key"
        return [f"optimizer.phases.{name} {rule}" for name in self.phases if name not in phases]


@dataclass(frozen=True)
class LearningRate:
    """A learning rate of a training, for its curves."""

    name: str
    """``learning_rate``; of a phase with its own ``learning_rate_PHASE``; of the parameters of ``optimizer.groups[1]`` with
    their own ``learning_rate_group1`` or ``learning_rate_PHASE_group1``."""
    initial: float
    schedule: Schedule

    def at(self, step: int, num_steps: int) -> float:
        """Its value in a step, counted from 0."""
        return self.initial * self.schedule.factor(step, num_steps)


def list_learning_rates(make: Make, schedule: Schedule, phases: Collection[str] = ("train",)) -> list[LearningRate]:
    """List the learning rates of the optimizers; those of an optimizer without one are left out.

    Args:
        make: makes the optimizers.
        schedule: of the experiment.
        phases: names of the phases of the task.
    """
    rates = dict[str, LearningRate]()
    common = _read_learning_rates(make)
    for phase in phases:
        own = make.phases.get(phase) if isinstance(make, OptimizerFactory) else None
        values = _read_learning_rates(own or make)
        is_different = own is not None and (own.schedule is not None or values != common)
        prefix = f"learning_rate_{phase}" if is_different and len(phases) > 1 else "learning_rate"
        for suffix, value in values.items():
            name = f"{prefix}{suffix}"
            rates.setdefault(name, LearningRate(name, value, find_schedule(make, phase) or schedule))
    return [*rates.values()]


def _read_learning_rates(make: Make) -> dict[str, float]:
    """The learning rates that an optimizer gives to parameters, by the suffix of their names."""
    groups = make.groups if isinstance(make, OptimizerFactory) else ()
    values = {"": {}, **{f"_group{number}": each.values for number, each in enumerate(groups) if "lr" in each.values}}
    rates = {suffix: _read_learning_rate(make, own) for suffix, own in values.items()}
    return {suffix: rate for suffix, rate in rates.items() if rate is not None}


def _read_learning_rate(make: Make, values: Mapping[str, Any]) -> float | None:
    """The learning rate that an optimizer gives to parameters with these values."""
    group: Any = {"params": [nn.Parameter(torch.zeros(1, device="cpu"))], **values}
    rate = make([group]).param_groups[0].get("lr")
    return None if rate is None else float(rate)


def make_optimizer(
    make: Make, named: Mapping[str, nn.Parameter], phase: str = "train"
) -> tuple[Optimizer, Schedule | None]:
    """Make the optimizer of a phase, or of a part of its parameters; also returns its own schedule, if it has one."""
    if not isinstance(make, OptimizerFactory):
        return make(named.values()), None
    factory = make.phases.get(phase, make)
    return factory.make_groups(named), factory.schedule


def find_schedule(make: Make, phase: str = "train") -> Schedule | None:
    """The schedule of a phase, if it has its own."""
    return make.phases.get(phase, make).schedule if isinstance(make, OptimizerFactory) else None


def find_optimizer_problems(
    make: Make,
    names: Collection[str],
    splits_weights: str = "",
    *,
    takes_closures: bool = False,
    phases: Collection[str] = ("train",),
) -> list[str]:
    """Problems of an optimizer with a model and an engine.

    Args:
        make: makes the optimizer.
        names: of the parameters that are trained.
        splits_weights: the setting by which an optimizer gets slices of the weights, such as ``parallel.stage=1``; "" if none.
        takes_closures: whether the engine runs optimizers that compute the loss themselves.
        phases: names of the phases of the task.
    """
    problems = list[str]()
    if isinstance(make, OptimizerFactory):
        problems = make.find_unused_patterns(names) + make.find_unused_phases(phases)
    sample = make([nn.Parameter(torch.zeros(1, device="cpu"))])
    name = type(sample).__name__
    if not takes_closures and needs_closure(sample):
        problems.append(f"optimizer {name} computes the loss several times in an update; use parallel=single or data")
    elif splits_weights:
        problems += find_slicing_problems(make, splits_weights)
    return problems


def find_slicing_problems(make: Make, splits_weights: str) -> list[str]:
    """Problems of an optimizer that gets slices of the weights; arguments as of `find_optimizer_problems`."""
    if is_elementwise(make):
        return []
    name = type(make([nn.Parameter(torch.zeros(1, device="cpu"))])).__name__
    return [
        f"optimizer {name} gives another result on slices of a weight than on the whole, and {splits_weights} gives it "
        "slices; use parallel=data, or an elementwise optimizer such as Adam"
    ]


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether the optimizer computes the loss itself, several times in an update, such as L-BFGS.

    It has a ``step`` whose closure has no default, or the class attribute ``needs_closure = True``.
    """
    if getattr(type(optimizer), "needs_closure", False):
        return True
    # torch replaces `step` of each class by a function that keeps the original
    closure = inspect.signature(inspect.unwrap(type(optimizer).step)).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def is_elementwise(make: Make) -> bool:
    """Whether an optimizer gives the same result on the slices of a weight as on the whole: it is tried on small weights.

    Each slice has an optimizer of its own, as on a rank, so one that adapts to the norm of all its weights is found too.
    """
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        start = torch.linspace(-1.0, 2.0, 12)
        whole = [nn.Parameter(start.clone().view(3, 4))]
        slices = [nn.Parameter(part.clone()) for part in torch.split(start, [5, 7])]
        try:
            for parameters, optimizers in (whole, [make(whole)]), (slices, [make([each]) for each in slices]):
                _make_steps(optimizers, parameters)
        except (RuntimeError, ValueError, TypeError):  # such as one that needs a closure, a matrix or sparse gradients
            return False
        one, other = (torch.cat([each.detach().reshape(-1) for each in own]) for own in (whole, slices))
        return bool(torch.allclose(one, other, rtol=1e-6, atol=1e-8))


def _make_steps(optimizers: Sequence[Optimizer], parameters: Sequence[nn.Parameter]) -> None:
    for step in range(3):
        torch.manual_seed(step)
        gradients = torch.split(torch.randn(12), [each.numel() for each in parameters])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter).clone()
        for optimizer in optimizers:
            optimizer.step()
