"""Builds the components of a training from a configuration."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from experiments.components.adapter import attach
from experiments.components.instantiate import instantiate
from experiments.components.load_weights import Loading, load_initial_weights
from experiments.components.optimizer import make_optimizer_factory
from experiments.config.rules.adapter import NO_ADAPTER
from experiments.core.errors import InputError, PlanError
from experiments.core.seeding import derive_seed
from modules.callback.base import Callback
from modules.data.base import Data
from modules.evaluator.base import AnyEvaluator, Combines
from modules.parallel.base import Engine, TrainingSetup


@dataclass
class Components:
    """The components of a training."""

    data: Data
    setup: TrainingSetup
    evaluator: AnyEvaluator
    engine: Engine
    callbacks: Mapping[str, Callback] = field(default_factory=dict)
    """By the name that the configuration gives them, in its order."""
    evaluation_sets: Mapping[str, Data] = field(default_factory=dict)
    """Further data for evaluations, by name."""
    loading: Loading | None = None
    """What `init_from` loaded; None: nothing, all weights are random."""


TORCH_LOSS = "modules.objective.torch_loss.TorchLoss"
TORCH_METRICS = "modules.evaluator.torch_metrics.TorchMetrics"
SUPERVISED = {"_target_": "modules.task.supervised.Supervised"}
"""The task of a configuration that is older than tasks."""


def assemble(config: Mapping[str, Any], trust: Collection[str] = (), initial: Path | None = None) -> Components:
    """Build all components, with random initial weights from the seed, or weights from a file.

    Args:
        config: of a trial.
        trust: packages, besides the built-in ones, that the configuration may name.
        initial: safetensors file for `init_from`; None: keep random weights, if only shapes matter.

    Raises:
        PlanError: with all problems: a component rejects its values, or is not on the allow-list.
    """
    torch.manual_seed(derive_seed(config["seed"], "init"))
    built, problems, causes = dict[str, Any](), list[str](), list[BaseException]()
    nodes = {**config, "task": config.get("task") or SUPERVISED, "adapter": config.get("adapter") or NO_ADAPTER}
    for key in ("model", "objective", "optimizer", "schedule", "data", "evaluator", "parallel", "task", "adapter"):
        try:
            if key == "optimizer":
                built[key] = make_optimizer_factory(nodes[key], trust)
            else:
                built[key] = instantiate(nodes[key], key, trust)
            if key == "evaluator":
                built[key] = adapt_evaluator(built[key])
            if key == "objective":
                built[key] = adapt_objective(built[key])
        except InputError as err:
            problems += err.problems
            causes += filter(None, [err.__cause__])
    named: dict[str, dict[str, Any]] = {"callback": {}, "gradient": {}, "evaluation_sets": {}}
    for group, own in named.items():
        for name, node in (config.get(group) or {}).items():
            try:
                own[name] = instantiate(
                    node, f"{group}.{name}", trust, group={"evaluation_sets": "data"}.get(group, group)
                )
            except InputError as err:
                problems += err.problems
                causes += filter(None, [err.__cause__])
    loading = (
        load_initial_weights(built["model"], config, {"": initial} if initial else {})
        if not problems
        else Loading(problems)
    )
    if problems := loading.problems or attach(built["model"], built["adapter"], config, loading):
        raise PlanError(problems, f"the plan for '{config['name']}'") from next(iter(causes), None)
    setup = TrainingSetup(
        built["model"], built["objective"], built["optimizer"], built["schedule"], example=built["data"].example,
        task=built["task"], gradient_transforms=[*named["gradient"].values()],
    )  # fmt: skip
    return Components(
        built["data"], setup, built["evaluator"], built["parallel"], named["callback"], named["evaluation_sets"],
        loading if initial is not None else None,
    )  # fmt: skip


def adapt_evaluator(evaluator: Any) -> Any:
    """Return a metric of torchmetrics as an evaluator, with its class name as its name; others unchanged.

    Raises:
        PlanError: its states are not sums.
    """
    if isinstance(evaluator, Combines):
        evaluator.evaluators = {name: adapt_evaluator(part) for name, part in evaluator.evaluators.items()}
    if not hasattr(evaluator, "_reductions"):  # of torchmetrics.Metric, which this process may not have
        return evaluator
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(evaluator).__name__).lower()
    return instantiate({"_target_": TORCH_METRICS, "metrics": {name: evaluator}}, "evaluator")


def adapt_objective(objective: Any) -> Any:
    """Return a loss of `torch.nn` as an objective; others unchanged."""
    if type(objective).__module__ != "torch.nn.modules.loss":
        return objective
    return instantiate({"_target_": TORCH_LOSS, "loss": objective}, "objective")


def make_engine(config: Mapping[str, Any], trust: Collection[str] = ()) -> Engine:
    """Build only the engine."""
    engine: Engine = instantiate(config["parallel"], "parallel", trust)
    return engine
