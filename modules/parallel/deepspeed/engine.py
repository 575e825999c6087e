"""What the engines on DeepSpeed share: how ranks meet, the optimizer and its configuration, states and weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from modules.parallel import checkpoint_format as state
from modules.parallel.base import EngineConfig, TrainingTask
from modules.parallel.cost_model.compatibility import Partition, find_incompatibilities
from modules.parallel.deepspeed.config import Stage, check_extra, make_settings
from modules.parallel.deepspeed.loss_scale import LossScale
from modules.parallel.forward import Forward
from modules.parallel.process_groups import ProcessGroups
from modules.parallel.tensor_parallel.shard_model import Shards
from modules.parallel.topology import Offload


class DeepSpeedEngine:
    """The common part; `prepare` of an engine calls `_meet`, `_optimizer_and_settings` and then DeepSpeed."""

    engine: Any
    """DeepSpeed's own."""
    tensors: Mapping[str, Tensor]
    """Parameters and buffers of this rank, by name."""

    def __init__(self, stage: Stage, offload: Offload, extra: Mapping[str, Any]) -> None:
        """
        Args:
            stage: of ZeRO.
            offload: what lies in the host's memory.
            extra: what is passed on to DeepSpeed.

        Raises:
            ValueError: there is more in it than may be.
        """
        if problems := check_extra(extra):
            raise ValueError("; ".join(problems))
        self.stage, self.offload, self.extra = stage, offload, extra

    def _meet(self, task: TrainingTask, config: EngineConfig, partition: Partition) -> None:
        """Join the other ranks, and split the learner's model over those along the model axis.

        Raises:
            ValueError: this machine, or the model, cannot do what the recipe asks.
        """
        if problems := find_incompatibilities(task.model, config.topology, partition):
            raise ValueError("; ".join(problems))
        for name, parameter in task.model.named_parameters():
            if parameter.dim() == 0:
                raise ValueError(
                    f"{name} of {type(task.model).__name__} is a parameter of shape [], which DeepSpeed 0.19.8 cannot send; "
                    "give it the shape [1], or take parallel=data"
                )
        self.config, self.schedule = config, task.schedule
        self.forward = Forward(task.objective, config)  # which may refuse, before anybody meets
        os.environ.setdefault(
            "DS_ACCELERATOR", self.forward.device.type
        )  # DeepSpeed would else take any GPU that it sees
        self.ranks = ProcessGroups(config, always=True)
        self.whole_kinds = state.describe_tensors(state.name_tensors(task.model))
        self.ties = state.find_ties(task.model)
        self.shards: Shards | None = None
        if config.topology.model > 1:
            self.shards = Shards(task.model, task.objective, self.ranks.groups["model"])
            self.forward.objective = self.shards.objective

    def _optimizer_and_settings(
        self, task: TrainingTask, parameters: Sequence[nn.Parameter], grad_clip_norm: float | None, **extra: Any
    ) -> tuple[Optimizer, dict[str, Any]]:
        """The optimizer over this rank's parameters, and what DeepSpeed is told."""
        optimizer = task.optimizer(parameters)
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
        """Set the scale of the loss in fp16, which is ours: with its own, DeepSpeed 0.19.8 clips by the scaled norm, silently."""
        self.scaler: LossScale | GradScaler | None = None
        if self.config.precision != "fp16":
            return
        if self.stage == 0:  # a plain optimizer, whose place for a scaler DeepSpeed knows
            self.scaler = self.engine.torch_autocast_z0_gradscaler = GradScaler(self.forward.device.type)
        else:
            self.scaler = LossScale()
            self.engine.optimizer.override_loss_scale(self.scaler.value)

    def _after_step(self, metrics: dict[str, Tensor], norm: Tensor | None = None) -> dict[str, Tensor]:
        """Add the gradient's norm to a step's metrics: that given, or DeepSpeed's.

        DeepSpeed skips a step whose gradient is not finite, silently. In fp16 that lowers the scale; else it is told by a
        norm that is infinite, asked for or not.
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
        copy = self._collect()
        if copy is None:
            return None
        copy.extra["scaler"] = self.scaler.state_dict() if self.scaler else {}
        return copy.write

    def load(self, folder: Path) -> None:
        from modules.parallel.deepspeed import zero_state as deepspeed_state

        part = self.shards.part if self.shards else lambda name, whole: whole
        with state.SavedState(folder) as saved:
            saved.check(self.whole_kinds, self.optimizer_name)
            if self.stage == 0:
                state.restore(saved, self.tensors, self.engine.optimizer, part)
            else:
                deepspeed_state.restore(self.engine, self.stage, self.tensors, saved, part, self.ranks)
            if self.scaler and (scaler := saved.extra.get("scaler")):
                self.scaler.load_state_dict(scaler)
            if isinstance(self.scaler, LossScale):
                self.engine.optimizer.override_loss_scale(self.scaler.value)

    def weights(self) -> dict[str, Tensor]:
        copy = self._collect(with_entries=False)
        return {} if copy is None else state.expand_ties(copy.weights, self.ties)

    def gather(self, value: float) -> list[float]:
        return self.ranks.gather(value)

    def _collect(self, *, with_entries: bool = True) -> state.TrainingState | None:
        from modules.parallel.deepspeed.zero_state import collect

        return collect(
            self.engine, self.stage, self.tensors, self.optimizer_name, self.shards, self.ranks, with_entries
        )
