"""Imports and initializes DeepSpeed without a compiler, a launcher or log output."""

# ruff: noqa: E402  # the settings must come before the import of DeepSpeed
from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from typing import Any
from unittest.mock import patch

# Without this, the import of deepspeed imports torch's compiler and prints its search for accelerators.
os.environ.setdefault("DS_ACCELERATOR", "cuda" if __import__("torch").cuda.is_available() else "cpu")

# DeepSpeed 0.19.8 uses deprecated names of torch 2.13's collectives, some of them in every step.
warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
# A pipeline broadcasts tied weights to their stages before training, with gradients enabled.
warnings.filterwarnings("ignore", "c10d::broadcast_: an autograd kernel was not registered", UserWarning)

# DeepSpeed's tuner imports MLflow if it is installed: 1.2 s of a rank's start (2026-11-24).
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

# Every engine checks whether its optimizer is DeepSpeed's Muon. The import of Muon compiles it, and so imports torch's
# compiler: 2 s of a rank's start (2026-11-24).
with patch.object(compiler, "compile", lambda: lambda function: function):
    importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")

MPI_VARIABLES = ("OMPI_", "PMI_", "PMIX_", "MV2_", "MPI_LOCALRANKID", "I_MPI_", "MPIRUN_", "HYDRA_", "PALS_")
"""Beginnings of the variables that MPI's launchers set: Open MPI, MPICH, PMIx, MVAPICH, Intel MPI, Cray."""


def initialize(
    model: nn.Module, optimizer: Optimizer, settings: dict[str, Any], config: EngineConfig, unit: Any
) -> Any:
    """Make DeepSpeed's engine for a model.

    Args:
        model: this rank's part of the model, on its device.
        optimizer: of its parameters.
        settings: from `deepspeed.config.make_settings`.
        config: with this rank.
        unit: a `ModelUnit`; None for a pipeline, which makes its own groups.
    """
    connect(config)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, mpu=unit)
    return engine


def connect(config: EngineConfig) -> None:
    """Let DeepSpeed use the existing process group."""
    _set_variables(config)
    # Operators that can be compiled. Otherwise DeepSpeed 0.19.8 runs a compiler to find out, and compiles an inference
    # operator for a minute whenever it makes a CPU process group.
    deepspeed.ops.__compatible_ops__ = {}
    # Its warnings are about settings that the plan has already checked.
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.init_distributed(dist_init_required=False, verbose=False)


def _set_variables(config: EngineConfig) -> None:
    """Set the variables from which DeepSpeed reads its rank; those of another launcher in the shell would contradict them."""
    for name in [name for name in os.environ if name.startswith(MPI_VARIABLES)]:
        del os.environ[name]
    rank, world_size = config.rank, config.topology.world
    os.environ |= {"LOCAL_RANK": str(rank.local_rank), "RANK": str(rank.number), "WORLD_SIZE": str(world_size)}


class ModelUnit:
    """Gives DeepSpeed the model-parallel and data-parallel groups, with the interface of Megatron's ``mpu``."""

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
