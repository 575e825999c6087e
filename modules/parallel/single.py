"""One process on one device: the engine that every other is held against."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from modules.data.base import Batch, Tensors
from modules.evaluator.base import Evaluator
from modules.parallel import state
from modules.parallel.base import Learner, Recipe


class Single:
    """Trains on one device, with accumulation, bf16, clipping and compilation; imports no DeepSpeed."""

    def prepare(self, learner: Learner, recipe: Recipe) -> None:
        self.recipe = recipe
        self.device = _device(recipe.device)
        self.model = learner.model.to(self.device)
        self.objective = learner.objective
        if isinstance(self.objective, nn.Module):  # class weights and the like
            self.objective.to(self.device)
        if recipe.compile:
            self.model.compile()  # in place, so that names stay free of `_orig_mod.`
        self.schedule = learner.schedule
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = learner.optimizer(self.parameters)
        self.initial_lrs = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.autocast = _autocast(self.device, recipe.precision)
        self.model.train()

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        recipe = self.recipe
        self.optimizer.zero_grad(set_to_none=True)
        if recipe.num_accumulation == 1:
            metrics = self._backward(batch)
        else:
            parts = [self._backward(micro_batch) for micro_batch in _split(batch, recipe.num_accumulation)]
            metrics = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        if recipe.grad_clip_norm is not None:
            metrics["grad_norm"] = clip_grad_norm_(self.parameters, recipe.grad_clip_norm)
        factor = self.schedule.factor(step, recipe.num_steps)
        for group, initial_lr in zip(self.optimizer.param_groups, self.initial_lrs, strict=True):
            group["lr"] = initial_lr * factor
        self.optimizer.step()
        return metrics

    def evaluate(self, batches: Iterable[Batch], evaluator: Evaluator) -> dict[str, float]:
        """The evaluator's metrics and the objective's mean over all examples; training does not feel that it ran.

        Raises:
            ValueError: there is no batch.
        """
        sums: Tensor | None = None
        totals: dict[str, Tensor] = {}
        num_examples = 0
        with _undisturbed(self.model, self.device):
            for batch in batches:
                # Inference mode ends before the next batch is fetched: tensors that a data set caches meanwhile could
                # otherwise never be trained on.
                with torch.inference_mode():
                    size, batch_sums, metrics = self._measure(batch, evaluator)
                    sums = batch_sums if sums is None else sums + batch_sums
                    totals = {name: totals.get(name, 0.0) + value.double() * size for name, value in metrics.items()}
                num_examples += size
        if sums is None:
            raise ValueError("evaluate wants at least one batch, but got 0; is the split empty?")
        means = {name: float(total) / num_examples for name, total in totals.items()}
        return means | evaluator.metrics(sums.to("cpu", torch.float64))

    def save(self, folder: Path) -> None:
        state.save_model(self.model, folder)
        state.save_optimizer(self.optimizer, folder)
        state.save_random(folder)

    def load(self, folder: Path) -> None:
        state.load_model(self.model, folder)
        state.load_optimizer(self.optimizer, folder)
        state.load_random(folder)

    def weights(self) -> dict[str, Tensor]:
        """A copy of the weights on the CPU, by name; of those that are tied, one copy per name."""
        contiguous = torch.contiguous_format
        tensors: dict[str, Tensor] = self.model.state_dict()
        return {name: tensor.detach().cpu().clone(memory_format=contiguous) for name, tensor in tensors.items()}

    def _backward(self, batch: Batch) -> dict[str, Tensor]:
        """Add one micro-batch's share to the gradients."""
        inputs, targets = self._on_device(batch)
        with self.autocast():
            loss, metrics = self.objective(self.model(inputs), targets)
        if self.recipe.num_accumulation > 1:
            loss = loss / self.recipe.num_accumulation
        loss.backward()  # type: ignore[no-untyped-call]  # torch 2.13 leaves it without types
        return {name: value.detach() for name, value in metrics.items()}

    def _measure(self, batch: Batch, evaluator: Evaluator) -> tuple[int, Tensor, dict[str, Tensor]]:
        """Size of a batch, its evaluator's sums and its objective's metrics."""
        inputs, targets = self._on_device(batch)
        with self.autocast():
            outputs = self.model(inputs)
            _, metrics = self.objective(outputs, targets)
            return _size(inputs), evaluator.measure(outputs, targets), metrics

    def _on_device(self, batch: Batch) -> Batch:
        if self.device.type == "cpu":
            return batch
        return _each(batch[0], self._moved), _each(batch[1], self._moved)

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory().to(self.device, non_blocking=True)


def _device(name: str) -> torch.device:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("hardware.device=cuda wants a CUDA device, but torch finds 0 here; set it to cpu or auto")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def _autocast(device: torch.device, precision: str) -> Callable[[], AbstractContextManager[object]]:
    if precision == "bf16":
        return lambda: torch.autocast(device.type, torch.bfloat16)
    return nullcontext


def _each(tensors: Tensors, change: Callable[[Tensor], Tensor]) -> Tensors:
    return change(tensors) if isinstance(tensors, Tensor) else tuple(change(tensor) for tensor in tensors)


def _size(tensors: Tensors) -> int:
    return len(tensors if isinstance(tensors, Tensor) else tensors[0])


def _split(batch: Batch, num_parts: int) -> Iterator[Batch]:
    """Cut a batch into equal parts, in order."""
    size = _size(batch[0])
    if size % num_parts:
        raise ValueError(
            f"num_accumulation={num_parts} cannot split a batch of {size} evenly; use a batch size that it divides"
        )
    for start in range(0, size, size // num_parts):
        cut = itemgetter(slice(start, start + size // num_parts))
        yield _each(batch[0], cut), _each(batch[1], cut)


@contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode; at the end every module's mode and every generator is as it was."""
    training = [module for module in model.modules() if module.training]
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)
