"""Replicas with DeepSpeed's ZeRO; a replica is one rank or a model-parallel group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from modules.data.base import Tree
from modules.evaluator.base import AnyEvaluator
from modules.parallel import checkpoint_format as state
from modules.parallel.base import EngineConfig, TrainingSetup
from modules.parallel.deepspeed.config import Stage
from modules.parallel.deepspeed.engine import DeepSpeedEngine
from modules.parallel.forward import Forward, MicroBatch, average_metrics, evaluate
from modules.parallel.topology import Degree, Meaning, Offload, Settings
from modules.task.base import Need
from modules.task.supervised import make_supervised


class Zero(DeepSpeedEngine):
    """Partitions what every replica would hold: optimizer state (stage 1), gradients (2), weights (3).

    Source: Rajbhandari et al. 2020, arXiv:1910.02054; model parallelism: Shoeybi et al. 2019, arXiv:1909.08053.
    """

    is_component = True
    serves: ClassVar[tuple[Need, ...]] = ("inputs", "whole_model", "collector")
    serves_up_to: ClassVar[Mapping[Need, Mapping[Meaning, int]]] = {
        "inputs": {"model": 1}, "whole_model": {"stage": 2, "model": 1}, "collector": {"stage": 2, "model": 1},
    }  # fmt: skip
    settings: ClassVar[Settings] = {
        "data": "data", "model": "model", "stage": "stage", "offload": "offload", "deepspeed_extra": "deepspeed_extra",
    }  # fmt: skip

    def __init__(
        self, stage: Stage, offload: Offload, data: Degree, model: Degree, deepspeed_extra: Mapping[str, Any]
    ) -> None:
        """
        Args:
            stage: ZeRO stage; 0 partitions nothing.
            offload: what is in host memory instead of device memory: the optimizer state (stages 1 to 3), or also the
                weights (stage 3).
            data: number of replicas; "auto": the number of devices divided by ``model``.
            model: ranks over which the layers of one replica are split.
            deepspeed_extra: keys of DeepSpeed's configuration that change speed, memory or logging.
        """
        super().__init__(stage, offload, deepspeed_extra)  # the resolved degrees come with the EngineConfig

    def prepare(self, setup: TrainingSetup, config: EngineConfig) -> None:
        self._connect(setup, config, "parameters")
        from modules.parallel.deepspeed.initialize import ModelUnit, initialize

        model = setup.model.to(self.forward.device)
        self.tensors, whole = state.name_tensors(model), state.name_tensors(model, whole=True)
        self.left_out = {name: tensor for name, tensor in whole.items() if name not in self.tensors}
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if config.compile:
            model.compile()
        # DeepSpeed 0.19.8 reports no norm under stage 0, so `_clip` clips.
        grad_clip_norm = config.grad_clip_norm if self.stage else None
        optimizer, settings = self._make_optimizer(setup, parameters, grad_clip_norm)
        self.trained = _Trained(model, self.forward)
        self.takes_whole_model = "whole_model" in setup.get_task().needs
        self.engine = initialize(self.trained, optimizer, settings, config, ModelUnit(self.ranks))
        self._scale_loss()
        self.parameters = parameters
        self.engine.train()

    def train_step(self, batch: Tree, step: int) -> dict[str, Tensor]:
        config = self.config
        step_metrics = []
        self._set_learning_rate(step)
        norm: Tensor | None = None
        for micro_batch in self.forward.split(batch, step, self.ranks):
            if self.takes_whole_model:
                loss, metrics = self.engine(micro_batch)
            else:
                loss, metrics = self.forward.compute_loss(self.engine, micro_batch)
            step_metrics.append({name: value.detach() for name, value in metrics.items()})
            self.engine.backward(loss)
            if (
                self.stage == 0
                and config.grad_clip_norm is not None
                and self.engine.is_gradient_accumulation_boundary()
            ):
                norm = self._clip(config.grad_clip_norm)
            self.engine.step()
        return self._after_step(self.ranks.mean(average_metrics(step_metrics)), norm)

    def evaluate(self, batches: Iterable[tuple[Tree, bool]], evaluator: AnyEvaluator) -> dict[str, float]:
        forward = Forward(make_supervised(self.shards.whole_objective), self.config) if self.shards else self.forward
        model = self.shards.whole_outputs(self.trained) if self.shards else self.trained
        if self.takes_whole_model:
            model = self.trained.model
        return evaluate(
            forward, self.trained, model, batches, evaluator, self.ranks, whole=self.trained.model, keeps_tensors=True
        )

    def refresh_weights(self) -> None:
        """Take over weights that a callback may have changed: stages 1 and 2 hold another copy of those that they update."""
        if self.stage in (1, 2):
            self.engine.optimizer.refresh_fp32_params()

    def _clip(self, max_norm: float) -> Tensor:
        """Clip by the gradient norm of the whole model, of which this rank has slices."""
        if isinstance(self.scaler, GradScaler):
            self.scaler.unscale_(self.engine.optimizer)
        split, shared = torch.zeros((), device=self.forward.device), torch.zeros((), device=self.forward.device)
        for parameter in self.parameters:
            if parameter.grad is not None:
                squares = parameter.grad.float().square().sum()
                if getattr(parameter, "model_parallel", False):
                    split += squares
                else:
                    shared += squares
        norm = (self.ranks.sum(split, "model") + shared).sqrt()
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
        return norm


class _Trained(nn.Module):
    """The model as DeepSpeed calls it, or the loss of a task that gets the whole model.

    Autocast is inside, because DeepSpeed disables an autocast context that encloses its forward pass. DeepSpeed prepares the
    backward pass by hooks on what its forward pass returns, so the forward pass of such a task is the whole loss.
    """

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.model, self.compute = model, forward

    def forward(self, inputs: Any) -> Any:
        if isinstance(inputs, MicroBatch):
            loss, metrics = self.compute.compute_loss(self.model, inputs)
            return loss, {name: value.detach() for name, value in metrics.items()}
        with self.compute.autocast():
            return self.model(inputs)
