"""The live parts of a training, built from a configuration."""

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
from modules.parallel.base import Engine, TrainingTask


@dataclass
class Components:
    """What a training is made of, alive."""

    data: Data
    task: TrainingTask
    evaluator: AnyEvaluator
    engine: Engine


def assemble(config: Mapping[str, Any], trust: Collection[str] = (), initial: Path | None = None) -> Components:
    """Build every part, initial weights from the configuration's seed and from a file.

    Args:
        config: a trial's.
        trust: packages beyond the house's own that may be named.
        initial: weights of safetensors, where the configuration names some (`init_from`); None leaves them to chance, where
            only shapes count.

    Raises:
        PlanError: with every problem: parts refuse their values, or may not be named.
    """
    torch.manual_seed(derive_seed(config["seed"], "init"))
    built, problems = dict[str, Any](), list[str]()
    for key in ("model", "objective", "optimizer", "schedule", "data", "evaluator", "parallel"):
        try:
            built[key] = instantiate(config[key], key, trust)
            if key == "optimizer":  # it is given its values with the parameters only; one will do to look at them
                built[key]([nn.Parameter(torch.empty(1))])
        except InputError as err:
            problems += err.problems
        except Exception as err:  # torch's optimizers and a user's raise what they like
            problems.append(f"{key}: {describe_error(err)}; mend its arguments")
    problems = problems or load_initial_weights(built["model"], config, initial)
    if problems:
        raise PlanError(problems, f"the plan for '{config['name']}'")
    task = TrainingTask(
        built["model"], built["objective"], built["optimizer"], built["schedule"], example=built["data"].example
    )
    return Components(built["data"], task, built["evaluator"], built["parallel"])


def make_engine(config: Mapping[str, Any], trust: Collection[str] = ()) -> Engine:
    """The engine alone."""
    engine: Engine = instantiate(config["parallel"], "parallel", trust)
    return engine
