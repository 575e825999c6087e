"""Builds the components of a training from a configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments.components.instantiate import describe_error, instantiate
from experiments.components.load_weights import load_initial_weights
from experiments.core.errors import InputError, PlanError
from experiments.core.seeding import derive_seed
from modules.data.base import Data
from modules.evaluator.base import AnyEvaluator
from modules.parallel.base import Engine, TrainingSetup


@dataclass
class Components:
    """The components of a training."""

    data: Data
    setup: TrainingSetup
    evaluator: AnyEvaluator
    engine: Engine


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
    built, problems = dict[str, Any](), list[str]()
    for key in ("model", "objective", "optimizer", "schedule", "data", "evaluator", "parallel"):
        try:
            built[key] = instantiate(config[key], key, trust)
            if key == "optimizer":  # it checks its values only when it gets parameters
                built[key]([nn.Parameter(torch.empty(1))])
        except InputError as err:
            problems += err.problems
        except Exception as err:  # optimizers raise any exception
            problems.append(f"{key}: {describe_error(err)}; correct its arguments")
    problems = problems or load_initial_weights(built["model"], config, initial)
    if problems:
        raise PlanError(problems, f"the plan for '{config['name']}'")
    setup = TrainingSetup(
        built["model"], built["objective"], built["optimizer"], built["schedule"], example=built["data"].example
    )
    return Components(built["data"], setup, built["evaluator"], built["parallel"])


def make_engine(config: Mapping[str, Any], trust: Collection[str] = ()) -> Engine:
    """Build only the engine."""
    engine: Engine = instantiate(config["parallel"], "parallel", trust)
    return engine
