"""Builds the optimizers of a configuration: groups of parameters, and phases that differ."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from experiments.components.instantiate import describe_error, instantiate
from experiments.config.rules.optimizer import NOT_ARGUMENTS, merge_phase
from experiments.core.errors import PlanError
from modules.optimizer.base import OptimizerFactory, ParameterGroup


def make_optimizer_factory(node: Mapping[str, Any], trust: Collection[str], key: str = "optimizer") -> OptimizerFactory:
    """Build what makes the optimizers.

    Args:
        node: of the configuration: an optimizer, with the further keys ``groups`` and ``phases``.
        trust: packages, besides the built-in ones, that the configuration may name.
        key: dotted key of the node, for messages.

    Raises:
        InputError: a class is not on the allow-list, or refuses its arguments.
    """
    own = {name: value for name, value in node.items() if name not in NOT_ARGUMENTS}
    make = instantiate(own, key, trust, group="optimizer")
    groups = [
        ParameterGroup(tuple(group["match"]), {name: value for name, value in group.items() if name != "match"})
        for group in node.get("groups") or ()
    ]
    phases = {
        name: make_optimizer_factory(merge_phase(node, phase), trust, f"{key}.phases.{name}")
        for name, phase in (node.get("phases") or {}).items()
    }
    schedule = (
        None
        if node.get("schedule") is None
        else instantiate(node["schedule"], f"{key}.schedule", trust, group="schedule")
    )
    try:  # it checks its values only when it gets parameters
        make([nn.Parameter(torch.empty(1))])
        for group in groups:
            make([{"params": [nn.Parameter(torch.empty(1))], **group.values}])
    except Exception as err:  # optimizers raise any exception
        raise PlanError([f"{key}: {describe_error(err)}; correct its arguments"], f"the component '{key}'") from err
    return OptimizerFactory(make, groups, phases, schedule)
