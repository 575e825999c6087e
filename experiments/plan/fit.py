"""Checks that a model and an optimizer fit the topology of their plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from experiments.components.instantiate import instantiate
from experiments.components.load_weights import load_initial_weights
from experiments.components.optimizer import make_optimizer_factory
from experiments.config.rules.engine import read_engine
from experiments.core.errors import PlanError
from experiments.plan.plan import Plan
from experiments.plan.without_compiler import without_compiler
from modules.optimizer.base import find_slicing_problems
from modules.parallel.cost_model.compatibility import find_incompatibilities, find_splitting


@without_compiler
def check_fit(
    config: Mapping[str, Any], plan: Plan, trust: Collection[str] = (), initial: Mapping[str, Path] | None = None
) -> None:
    """Refuse a model or an optimizer that cannot be split into the stages and over the ranks of its plan.

    Args:
        config: of a trial.
        plan: of that trial.
        trust: further packages that `_target_` may name.
        initial: files of initial weights by the part of the model, which are compared with the model's.

    Raises:
        PlanError: lists every problem.
    """
    engine, topology, problems = read_engine(config), plan.topology, list[str]()
    if topology.pipe > 1 or topology.model > 1 or initial or config.get("freeze"):
        with torch.device("meta"):
            model = instantiate(config["model"], "model", trust)
        problems += load_initial_weights(model, config, initial or {}).problems
        problems += find_incompatibilities(model, topology, engine.get("partition", "parameters"), engine.settings)
    if splits := find_splitting(engine.get("stage", 0), topology, plan.num_servers, engine.settings):
        problems += find_slicing_problems(make_optimizer_factory(config["optimizer"], trust), splits)
    if problems:
        raise PlanError(problems, f"the plan for '{plan.name}'")
