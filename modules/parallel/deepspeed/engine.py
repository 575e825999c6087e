"""Base of the DeepSpeed engines: process groups, optimizer and configuration, state and weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from modules.optimizer.base import find_optimizer_problems, make_optimizer
from modules.parallel import checkpoint_format as state
from modules.parallel.base import EngineConfig, TrainingSetup, find_unserved
from modules.parallel.cost_model.compatibility import Partition, find_incompatibilities, find_splitting
from modules.parallel.deepspeed.config import Stage, check_extra, make_settings
from modules.parallel.deepspeed.loss_scale import LossScale
from modules.parallel.forward import Forward
from modules.parallel.process_groups import ProcessGroups
from modules.parallel.tensor_parallel.shard_model import Shards
from modules.parallel.topology import Offload, Settings
from modules.task.supervised import make_supervised


class DeepSpeedEngine:
    """Base class; `prepare` of a subclass calls `_connect`, `_make_optimizer` and then DeepSpeed."""

    engine: Any
    """DeepSpeed's engine."""
    settings: ClassVar[Settings] = {}
    tensors: Mapping[str, Tensor]
    """Parameters and buffers of this rank, by name."""
    left_out: Mapping[str, Tensor] = MappingProxyType({})
    """Weights that no checkpoint holds, by name."""

    def __init__(self, stage: Stage, offload: Offload, extra: Mapping[str, Any]) -> None:
        """
        Args:
            stage: ZeRO stage.
            offload: what is in host memory.
            extra: further keys of DeepSpeed's configuration.

        Raises:
            ValueError: a key or a value in ``extra`` is not allowed.
        """
        if problems := check_extra(extra):
            raise ValueError("; ".join(problems))
        self.stage, self.offload, self.extra = stage, offload, extra

    def _connect(self, setup: TrainingSetup, config: EngineConfig, partition: Partition) -> None:
        """Join the process groups, and split the model over the ranks of the model axis.

        Raises:
            ValueError: this machine or the model cannot do what the configuration requires.
        """
        problems = find_incompatibilities(setup.model, config.topology, partition, self.settings)
        problems += find_unserved(setup.get_task(), self, stage=self.stage, model=config.topology.model)
        splits = find_splitting(self.stage, config.topology, settings=self.settings)
        names = [name for name, parameter in setup.model.named_parameters() if parameter.requires_grad]
        if problems := problems + find_optimizer_problems(setup.optimizer, names, splits):
            raise ValueError("; ".join(problems))
        for name, parameter in setup.model.named_parameters():
            if parameter.dim() == 0:
                raise ValueError(
                    f"{name} of {type(setup.model).__name__} is a parameter of shape [], which DeepSpeed 0.19.8 cannot send; "
                    "give it the shape [1], or use parallel=data"
                )
        self.config = config
        self.objective = setup.objective
        self.forward = Forward(setup.get_task(), config)  # it may raise, so it comes before the ranks connect
        os.environ.setdefault(
            "DS_ACCELERATOR", self.forward.device.type
        )  # otherwise DeepSpeed uses any GPU that it finds
        self.ranks = ProcessGroups(config, always=True)
        self.whole_tensors = state.describe_tensors(state.name_tensors(setup.model))
        self.ties = state.find_ties(setup.model)
        self.shards: Shards | None = None
        if config.topology.model > 1:
            self.shards = Shards(setup.model, setup.objective, self.ranks.groups["model"])
            self.objective = self.shards.objective
            self.forward = Forward(make_supervised(self.objective), config)

    def _make_optimizer(
        self, setup: TrainingSetup, parameters: Sequence[nn.Parameter], grad_clip_norm: float | None, **extra: Any
    ) -> tuple[Optimizer, dict[str, Any]]:
        """Make the optimizer of this rank's parameters, and DeepSpeed's configuration."""
        names = {id(tensor): name for name, tensor in self.tensors.items()}
        optimizer, schedule = make_optimizer(setup.optimizer, {names[id(each)]: each for each in parameters})
        self.schedule = schedule or setup.schedule
        self.optimizer_name = type(optimizer).__name__
        self.initial_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        settings = make_settings(
            stage=self.stage,
            offload=self.offload,
            batch_size_per_device=self.config.batch_size_per_device,
            num_accumulation=self.config.num_accumulation,
            grad_clip_norm=grad_clip_norm,
            num_parameters=sum(parameter.numel() for parameter in parameters),
            extra={**extra, **self.extra},
        )
        return optimizer, settings

    def _set_learning_rate(self, step: int) -> None:
        factor = self.schedule.factor(step, self.config.num_steps)
        for group, initial_lr in zip(self.engine.optimizer.param_groups, self.initial_lrs, strict=True):
            group["lr"] = initial_lr * factor

    def _scale_loss(self) -> None:
        """Set up our loss scaling in fp16: with its own, DeepSpeed 0.19.8 silently clips by the scaled norm."""
        self.scaler: LossScale | GradScaler | None = None
        if self.config.precision != "fp16":
            return
        if self.stage == 0:  # a plain optimizer, for which DeepSpeed uses this scaler
            self.scaler = self.engine.torch_autocast_z0_gradscaler = GradScaler(self.forward.device.type)
        else:
            self.scaler = LossScale()
            self.engine.optimizer.override_loss_scale(self.scaler.value)

    def _after_step(self, metrics: dict[str, Tensor], norm: Tensor | None = None) -> dict[str, Tensor]:
        """Add the gradient norm to the metrics of a step: ``norm`` if given, otherwise DeepSpeed's.

        DeepSpeed silently skips a step whose gradient is not finite. In fp16 this lowers the loss scale. Otherwise the
        metrics get an infinite norm, also without clipping.
        """
        overflow = bool(getattr(self.engine.optimizer, "overflow", False))
        if isinstance(self.scaler, LossScale):
            self.scaler.update(overflow)
            self.engine.optimizer.override_loss_scale(self.scaler.value)
        if overflow and self.scaler is None:
            metrics["grad_norm"] = torch.tensor(torch.inf, device=self.forward.device)
        elif self.config.grad_clip_norm is not None:
            if norm is None:
                norm = torch.as_tensor(self.engine.get_global_grad_norm(), device=self.forward.device)
            metrics["grad_norm"] = norm if self.scaler is None else norm.nan_to_num(0.0, 0.0, 0.0)
        return metrics

    def snapshot(self) -> Callable[[Path], None] | None:
        copy = self._collect(self.tensors)
        if copy is None:
            return None
        copy.extra["scaler"] = self.scaler.state_dict() if self.scaler else {}
        return copy.write

    def load(self, folder: Path) -> None:
        from modules.parallel.deepspeed import zero_state

        part = self.shards.part if self.shards else lambda name, whole: whole
        with state.SavedState(folder) as saved:
            saved.check(self.whole_tensors, self.optimizer_name)
            if self.stage == 0:
                state.restore(saved, self.tensors, [self.engine.optimizer], part)
            else:
                zero_state.restore(self.engine, self.stage, self.tensors, saved, part, self.ranks)
            if self.scaler and (scaler := saved.extra.get("scaler")):
                self.scaler.load_state_dict(scaler)
            if isinstance(self.scaler, LossScale):
                self.engine.optimizer.override_loss_scale(self.scaler.value)

    def weights(self) -> dict[str, Tensor]:
        copy = self._collect({**self.tensors, **self.left_out}, with_entries=False)
        return {} if copy is None else state.expand_ties(copy.weights, self.ties)

    def gather(self, value: float) -> list[float]:
        return self.ranks.gather(value)

    def _collect(self, tensors: Mapping[str, Tensor], *, with_entries: bool = True) -> state.TrainingState | None:
        from modules.parallel.deepspeed.zero_state import collect

        return collect(self.engine, self.stage, tensors, self.optimizer_name, self.shards, self.ranks, with_entries)
