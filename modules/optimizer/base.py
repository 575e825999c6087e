"""Makes the optimizers of a training: with groups of parameters by name, and other values for single phases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

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
        """Make an optimizer of named parameters.

        Raises:
            ValueError: a pattern matches no parameter.
        """
        rest, groups = dict(named), list[dict[str, Any]]()
        for group in self.groups:
            own = [name for name in rest if any(fnmatchcase(name, pattern) for pattern in group.match)]
            unused = [pattern for pattern in group.match if not any(fnmatchcase(name, pattern) for name in named)]
            if unused:
                raise ValueError(
                    f"optimizer.groups: match={unused} matches no parameter of the model, whose parameters are "
                    f"{', '.join(list(named)[:5])}{' ...' if len(named) > 5 else ''}; correct the pattern"
                )
            groups.append({"params": [rest.pop(name) for name in own], **group.values})
        groups = [{"params": [*rest.values()]}, *groups]
        return self.make([group for group in groups if group["params"]])


def make_optimizer(
    make: Make, named: Mapping[str, nn.Parameter], phase: str = "train"
) -> tuple[Optimizer, Schedule | None]:
    """Make the optimizer of a phase; also returns its own schedule, if it has one.

    Raises:
        ValueError: a pattern of a group matches no parameter.
    """
    if not isinstance(make, OptimizerFactory):
        return make(named.values()), None
    factory = make.phases.get(phase, make)
    return factory.make_groups(named), factory.schedule
