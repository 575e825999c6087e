"""The live parts of a training, built from a configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from experiments.build import build
from experiments.seeding import derive
from modules.data.base import Data
from modules.evaluator.base import Evaluator
from modules.parallel.base import Engine, Learner


@dataclass
class Parts:
    """What a training is made of, alive."""

    data: Data
    learner: Learner
    evaluator: Evaluator
    engine: Engine


def make_parts(config: Mapping[str, Any], trust: Collection[str] = ()) -> Parts:
    """Build every part, initial weights from the configuration's seed.

    Raises:
        InputError: a part refuses its values, or may not be named.
    """
    torch.manual_seed(derive(config["seed"], "init"))
    learner = Learner(*(build(config[key], key, trust) for key in ("model", "objective", "optimizer", "schedule")))
    data, evaluator, engine = (build(config[key], key, trust) for key in ("data", "evaluator", "parallel"))
    return Parts(data, learner, evaluator, engine)
