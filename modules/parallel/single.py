"""One process on one device: the reference for all other engines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from modules.data.base import Tree
from modules.evaluator.base import AnyEvaluator
from modules.parallel import checkpoint_format as state
from modules.parallel.base import EngineConfig, TrainingSetup
from modules.parallel.forward import Forward, average_metrics, derive_seed, evaluate
from modules.parallel.process_groups import ProcessGroups
from modules.parallel.updates import Update, make_updates
from modules.task.base import Need

_LOSS = "the loss of a closure"


class Single:
    """Trains on one device, with accumulation, mixed precision, clipping and compilation. Does not import DeepSpeed."""

    is_component = True
    serves: ClassVar[tuple[Need, ...]] = (
        "inputs", "whole_model", "phases", "closure", "collector", "per_example_gradients", "gradients",
        "trial_steps",
    )  # fmt: skip

    def prepare(self, setup: TrainingSetup, config: EngineConfig) -> None:
        self.config = config
        self.task = setup.get_task()
        self.forward = Forward(self.task, config)
        self.ranks = ProcessGroups(config)
        self.model = setup.model.to(self.forward.device)
        self.tensors = state.name_tensors(self.model)
        if config.compile:
            self.model.compile()  # in place, so that names do not get the prefix `_orig_mod.`
        self.schedule = setup.schedule
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.updates = make_updates(setup, self.model)
        self.gradient_transforms = setup.gradient_transforms
        self.optimizer = self.updates[0].optimizer
        self.scaler = torch.amp.GradScaler(self.forward.device.type, enabled=config.precision == "fp16")
        if self.scaler.is_enabled() and any(update.needs_closure for update in self.updates):
            raise ValueError(
                f"precision=fp16 scales the loss, which {type(self.optimizer).__name__} computes several times in a step; use "
                "precision=bf16"
            )
        self.model.train()
        self.trained: nn.Module = self.model

    def train_step(self, batch: Tree, step: int) -> dict[str, Tensor]:
        metrics: dict[str, Tensor] = {}
        for update in self.updates:
            if step % update.phase.every_steps == 0:
                with update.only_its_parameters():
                    metrics |= self._update(update, batch, step)
            elif step % update.phase.every_steps == 1:
                # A callback sees only gradients of this step, in a resumed run too.
                update.clear_gradients()
        return metrics

    def _update(self, update: Update, batch: Tree, step: int) -> dict[str, Tensor]:
        """Make the update of one phase; returns its metrics."""
        update.set_learning_rate(step, self.config.num_steps)
        if update.needs_closure:
            return self._update_with_closure(update, batch, step)
        metrics = self.backward(batch, step, update)
        if self.config.grad_clip_norm is not None or self.gradient_transforms:
            self.scaler.unscale_(update.optimizer)
            metrics |= self._change_gradients(update, step)
        self.scaler.step(update.optimizer)
        self.scaler.update()
        return metrics

    def _update_with_closure(self, update: Update, batch: Tree, step: int) -> dict[str, Tensor]:
        """An update whose optimizer computes the loss several times; the metrics are those of the first time."""
        first: dict[str, Tensor] = {}

        def closure() -> Tensor:
            metrics = self.backward(batch, step, update, with_loss=True)
            loss = metrics.pop(_LOSS)
            metrics |= self._change_gradients(update, step)
            if not first:
                first.update(metrics)
            return loss

        with torch.enable_grad():
            update.optimizer.step(closure)  # type: ignore[arg-type]  # torch reads a tensor as a float
        return first

    def backward(
        self, batch: Tree, step: int, update: Update | None = None, *, with_loss: bool = False
    ) -> dict[str, Tensor]:
        """Compute the gradients of a batch on the CPU; returns its metrics, averaged over micro-batches and replicas.

        Args:
            batch: of this replica.
            step: counted from 0.
            update: whose parameters get gradients; None: the only one.
            with_loss: whether the metrics include the loss, under the name `_LOSS`.
        """
        update = update or self.updates[0]
        update.clear_gradients()
        step_metrics = []
        parts = self.forward.split(batch, step, self.ranks, update.phase)
        for number, part in enumerate(parts, start=1):
            with self._gradient_sync() if number == len(parts) else self._no_gradient_sync():
                loss, metrics = self.forward.compute_loss(self.trained, part)
                if with_loss:
                    metrics[_LOSS] = loss
                if len(parts) > 1:
                    loss = loss / len(parts)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # no types in torch 2.13
            step_metrics.append({name: value.detach() for name, value in metrics.items()})
        return self._average(average_metrics(step_metrics), update)

    def _change_gradients(self, update: Update, step: int) -> dict[str, Tensor]:
        """Transform and clip the gradients of an update; returns their norm before clipping, if they are clipped."""
        if self.gradient_transforms:
            seed = derive_seed(self.config.seed, step, f"gradient {update.phase.name}")
            generator = torch.Generator().manual_seed(seed)
            gradients = {name: each.grad for name, each in update.named.items() if each.grad is not None}
            with torch.no_grad():
                for transform in self.gradient_transforms:
                    transform.transform(gradients, step, generator)
        if self.config.grad_clip_norm is None:
            return {}
        return {update.norm_name: self._make_finite(clip_grad_norm_(update.parameters, self.config.grad_clip_norm))}

    def evaluate(self, batches: Iterable[tuple[Tree, bool]], evaluator: AnyEvaluator) -> dict[str, float]:
        return evaluate(self.forward, self.model, self.model, batches, evaluator, self.ranks)

    def snapshot(self) -> Callable[[Path], None] | None:
        if self.ranks.number > 0:
            return None
        copy = state.collect(self.tensors, *(update.optimizer for update in self.updates))
        copy.extra["scaler"] = self.scaler.state_dict()
        return copy.write

    def load(self, folder: Path) -> None:
        with state.SavedState(folder) as saved:
            optimizers = [update.optimizer for update in self.updates]
            saved.check(state.describe_tensors(self.tensors), state.name_optimizers(optimizers))
            state.restore(saved, self.tensors, optimizers)
            self.scaler.load_state_dict(saved.extra.get("scaler") or self.scaler.state_dict())

    def weights(self) -> dict[str, Tensor]:
        """Copy the weights to the CPU, by name; tied weights are copied once per name."""
        return {name: state.copy_to_cpu(tensor) for name, tensor in self.model.state_dict().items()}

    def gather(self, value: float) -> list[float]:
        return self.ranks.gather(value)

    def _average(self, metrics: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """Average the metrics of an update over the replicas, and complete its gradients."""
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
