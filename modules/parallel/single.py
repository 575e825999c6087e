"""One process on one device: the reference for all other engines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from modules.data.base import Batch
from modules.evaluator.base import AnyEvaluator
from modules.parallel import checkpoint_format as state
from modules.parallel.base import EngineConfig, TrainingSetup
from modules.parallel.forward import Forward, average_metrics, evaluate, split_micro_batches
from modules.parallel.process_groups import ProcessGroups


class Single:
    """Trains on one device, with accumulation, mixed precision, clipping and compilation. Does not import DeepSpeed."""

    is_component = True

    def prepare(self, setup: TrainingSetup, config: EngineConfig) -> None:
        self.config = config
        self.forward = Forward(setup.objective, config)
        self.ranks = ProcessGroups(config)
        self.model = setup.model.to(self.forward.device)
        self.tensors = state.name_tensors(self.model)
        if config.compile:
            self.model.compile()  # in place, so that names do not get the prefix `_orig_mod.`
        self.schedule = setup.schedule
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = setup.optimizer(self.parameters)
        self.initial_lrs = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(self.forward.device.type, enabled=config.precision == "fp16")
        self.model.train()
        self.trained: nn.Module = self.model

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        metrics = self._average(self.backward(batch))
        config = self.config
        if config.grad_clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            metrics["grad_norm"] = self._make_finite(clip_grad_norm_(self.parameters, config.grad_clip_norm))
        self.set_learning_rate(step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return metrics

    def backward(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the gradients of a batch on the CPU; returns its metrics, averaged over the micro-batches."""
        config = self.config
        self.optimizer.zero_grad(set_to_none=True)
        step_metrics = []
        for number, micro_batch in enumerate(split_micro_batches(batch, config.num_accumulation), start=1):
            with self._gradient_sync() if number == config.num_accumulation else self._no_gradient_sync():
                loss, metrics = self.forward.compute_loss(self.trained, micro_batch)
                if config.num_accumulation > 1:
                    loss = loss / config.num_accumulation
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # no types in torch 2.13
            step_metrics.append({name: value.detach() for name, value in metrics.items()})
        return average_metrics(step_metrics)

    def set_learning_rate(self, step: int) -> None:
        factor = self.schedule.factor(step, self.config.num_steps)
        for group, initial_lr in zip(self.optimizer.param_groups, self.initial_lrs, strict=True):
            group["lr"] = initial_lr * factor

    def evaluate(self, batches: Iterable[tuple[Batch, bool]], evaluator: AnyEvaluator) -> dict[str, float]:
        return evaluate(self.forward, self.model, self.model, batches, evaluator, self.ranks)

    def snapshot(self) -> Callable[[Path], None] | None:
        if self.ranks.number > 0:
            return None
        copy = state.collect(self.tensors, self.optimizer)
        copy.extra["scaler"] = self.scaler.state_dict()
        return copy.write

    def load(self, folder: Path) -> None:
        with state.SavedState(folder) as saved:
            saved.check(state.describe_tensors(self.tensors), type(self.optimizer).__name__)
            state.restore(saved, self.tensors, self.optimizer)
            self.scaler.load_state_dict(saved.extra.get("scaler") or self.scaler.state_dict())

    def weights(self) -> dict[str, Tensor]:
        """Copy the weights to the CPU, by name; tied weights are copied once per name."""
        return {name: state.copy_to_cpu(tensor) for name, tensor in self.model.state_dict().items()}

    def gather(self, value: float) -> list[float]:
        return self.ranks.gather(value)

    def _average(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Average the metrics of a step over the replicas."""
        return self.ranks.mean(metrics)

    def _gradient_sync(self) -> AbstractContextManager[object]:
        """Context of the last backward pass of a step."""
        return nullcontext()

    def _no_gradient_sync(self) -> AbstractContextManager[object]:
        """Context of a backward pass that is not the last of its step: gradients accumulate without an exchange."""
        return nullcontext()

    def _make_finite(self, norm: Tensor) -> Tensor:
        """Report a norm of 0 after an fp16 overflow, which skips the step and halves the scale."""
        return norm.nan_to_num(0.0, 0.0, 0.0) if self.scaler.is_enabled() else norm
