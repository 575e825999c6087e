"""Checks that a model fits the topology of its plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from experiments.components.instantiate import instantiate
from experiments.components.load_weights import load_initial_weights
from experiments.core.errors import PlanError
from experiments.plan.plan import Plan
from modules.parallel.cost_model.compatibility import find_incompatibilities


def check_fit(config: Mapping[str, Any], plan: Plan, trust: Collection[str] = (), initial: Path | None = None) -> None:
    """Refuse a model that cannot be split into the stages and over the ranks of its plan.

    Args:
        config: of a trial.
        plan: of that trial.
        trust: further packages that `_target_` may name.
        initial: file of initial weights, which are compared with the model's.

    Raises:
        PlanError: lists every problem.
    """
    if plan.topology.pipe == plan.topology.model == 1 and initial is None and not config.get("freeze"):
        return
    with torch.device("meta"):
        model = instantiate(config["model"], "model", trust)
    problems = load_initial_weights(model, config, initial)
    problems += find_incompatibilities(model, plan.topology, config["parallel"].get("partition", "parameters"))
    if problems:
        raise PlanError(problems, f"the plan for '{plan.name}'")
