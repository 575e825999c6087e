"""DeepSpeed brought up without a compiler, a launcher or a word: what its engines share."""

# ruff: noqa: E402  # what is set below has to be set before DeepSpeed is imported
from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from typing import Any
from unittest.mock import patch

# Before deepspeed is imported: it would else import torch's compiler at once, and look for accelerators aloud.
os.environ.setdefault("DS_ACCELERATOR", "cuda" if __import__("torch").cuda.is_available() else "cpu")

# DeepSpeed 0.19.8 calls torch 2.13's collectives by their old names, some of them every step.
warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
# A pipeline brings weights that are tied to all their stages before it trains them, without switching gradients off.
warnings.filterwarnings("ignore", "c10d::broadcast_: an autograd kernel was not registered", UserWarning)

# DeepSpeed's tuner imports MLflow wherever it finds it: 1.2 s of a rank's start (2026-11-24).
if hides_mlflow := "mlflow" not in sys.modules:
    sys.modules["mlflow"] = None  # type: ignore[assignment]
import deepspeed

if hides_mlflow:
    del sys.modules["mlflow"]
import torch.distributed as dist
from deepspeed.runtime import compiler
from torch import nn
from torch.optim import Optimizer

from modules.parallel.base import EngineConfig
from modules.parallel.process_groups import ProcessGroups

# Any engine asks whether its optimizer is DeepSpeed's Muon, and importing that compiles it: 2 s of a rank's start, for
# torch's compiler is imported first (2026-11-24).
with patch.object(compiler, "compile", lambda: lambda function: function):
    importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")


def initialize(
    model: nn.Module, optimizer: Optimizer, settings: dict[str, Any], config: EngineConfig, unit: Any
) -> Any:
    """DeepSpeed's engine over a model.

    Args:
        model: this rank's part of it, on its device.
        optimizer: over its parameters.
        settings: from `deepspeed.config.make_settings`.
        recipe: with this rank.
        unit: a `ModelUnit`, or None where the model is a pipeline, which has its own groups.
    """
    connect(config)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, mpu=unit)
    return engine


def connect(config: EngineConfig) -> None:
    """Let DeepSpeed use the process group that is there."""
    os.environ.setdefault("LOCAL_RANK", str(config.rank.local_rank))  # its only source for the number on the node
    # What can be compiled: else found out with a compiler, for the sake of an operator for inference alone, which would be
    # compiled for a minute whenever a CPU's process group is made (0.19.8).
    deepspeed.ops.__compatible_ops__ = {}
    # Its warnings are about what the plan has judged already.
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.init_distributed(dist_init_required=False, verbose=False)


class ModelUnit:
    """Tells DeepSpeed which ranks hold slices of one replica, in the words of Megatron's ``mpu``."""

    def __init__(self, ranks: ProcessGroups) -> None:
        self.ranks = ranks

    def _group(self, axis: str) -> dist.ProcessGroup:
        return self.ranks.groups[axis]

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        return self._group("model")

    def get_model_parallel_rank(self) -> int:
        return self.ranks.coordinates.model

    def get_model_parallel_world_size(self) -> int:
        return self.ranks.topology.model

    get_tensor_model_parallel_group = get_model_parallel_group
    get_tensor_model_parallel_rank = get_model_parallel_rank
    get_tensor_model_parallel_world_size = get_model_parallel_world_size

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        return self._group("data")

    def get_data_parallel_rank(self) -> int:
        return self.ranks.coordinates.data

    def get_data_parallel_world_size(self) -> int:
        return self.ranks.topology.data
