"""Code that all engines share: device, precision, forward pass with its loss, and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from operator import itemgetter

import torch
from torch import Tensor, nn

from modules.data.base import Batch, Tensors
from modules.evaluator.base import AnyEvaluator, ModelEvaluator
from modules.objective.base import Objective
from modules.parallel.base import EngineConfig
from modules.parallel.process_groups import ProcessGroups

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Forward:
    """Forward pass and objective of one rank."""

    def __init__(self, objective: Objective, config: EngineConfig) -> None:
        """
        Raises:
            ValueError: this machine does not have the device.
        """
        self.device = find_device(config)
        self.objective = objective
        self.precision = config.precision
        self.channels_last = config.channels_last
        if isinstance(objective, nn.Module):  # it may hold tensors, such as class weights
            objective.to(self.device)

    def autocast(self) -> AbstractContextManager[object]:
        dtype = AUTOCAST.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def compute_loss(self, model: Callable[[Tensors], Tensors], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss and metrics of a micro-batch, which is on the CPU."""
        inputs, targets = self.move_to_device(batch)
        with self.autocast():
            loss, metrics = self.objective(model(inputs), targets)
        return loss, metrics

    def move_to_device(self, batch: Batch) -> Batch:
        inputs, targets = batch
        if self.channels_last:
            inputs = _map_tensors(inputs, _to_channels_last)
        if self.device.type == "cpu":
            return inputs, targets
        return _map_tensors(inputs, self._copy), _map_tensors(targets, self._copy)

    def _copy(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory().to(self.device, non_blocking=True)


class MetricAccumulator:
    """Accumulates sums over the batches of an evaluation."""

    def __init__(self, evaluator: AnyEvaluator, objective: Objective, whole: nn.Module | None = None) -> None:
        """
        Args:
            evaluator: computes the sums.
            objective: for whole outputs, not slices.
            whole: the model, for an evaluator that calls it; None if no rank has the whole model.
        """
        self.evaluator, self.objective, self.whole = evaluator, objective, whole
        self.sums: Tensor | None = None
        self.totals: dict[str, Tensor] = {}
        self.num_examples = 0

    def add(self, outputs: Tensors, targets: Tensors, is_counted: bool, inputs: Tensors | None = None) -> None:
        """Add the sums of one batch. A batch that is not counted only sets the names and shapes, if it comes first."""
        _, metrics = self.objective(outputs, targets)
        size = count_examples(targets) if is_counted else 0
        if is_counted:
            sums = self._compute_sums(inputs, outputs, targets)
            self.sums = sums if self.sums is None else self.sums + sums
        elif self.sums is None:
            self.sums = torch.zeros_like(self._compute_sums(inputs, outputs, targets, only_first=True))
        for name, value in metrics.items():
            self.totals[name] = self.totals.get(name, 0.0) + value.detach().double() * size
        self.num_examples += size

    def _compute_sums(
        self, inputs: Tensors | None, outputs: Tensors, targets: Tensors, *, only_first: bool = False
    ) -> Tensor:
        """Sums of a batch; with ``only_first``, an evaluator that calls the model, which can be slow, gets one example."""
        if not isinstance(self.evaluator, ModelEvaluator):
            return self.evaluator.update(outputs, targets)
        assert self.whole is not None, "the plan has refused this layout"
        assert inputs is not None
        select = itemgetter(slice(1 if only_first else None))
        return self.evaluator.update_with_model(
            self.whole, (_map_tensors(inputs, select), _map_tensors(targets, select))
        )

    def _compute_metrics(self, sums: Tensor) -> dict[str, float]:
        if not isinstance(self.evaluator, ModelEvaluator):
            return self.evaluator.compute(sums)
        assert self.whole is not None, "the plan has refused this layout"
        return self.evaluator.compute_with_model(self.whole, sums)

    def compute(self, ranks: ProcessGroups) -> dict[str, float]:
        """Metrics over the counted examples of all replicas; call it on all ranks that called `add`.

        Raises:
            ValueError: there was no batch.
        """
        if self.sums is None:
            raise ValueError("evaluate needs at least one batch, but got 0; check that the split is not empty")
        count = self.sums.new_tensor([self.num_examples])
        flat = ranks.sum(torch.cat([count, self.sums, *(total.reshape(1) for total in self.totals.values())]), "data")
        values = flat.to("cpu", torch.float64)
        sums, totals = values[1 : 1 + len(self.sums)], values[1 + len(self.sums) :]
        means = {name: float(total) / float(values[0]) for name, total in zip(self.totals, totals, strict=True)}
        return means | self._compute_metrics(sums)


def find_device(config: EngineConfig) -> torch.device:
    """Device of this rank.

    Raises:
        ValueError: this machine does not have the device.
    """
    count = torch.cuda.device_count() if config.device != "cpu" and torch.cuda.is_available() else 0
    if config.device == "cuda" and count == 0:
        raise ValueError("hardware.device=cuda needs a CUDA device, but torch finds 0 here; set it to cpu or auto")
    if config.precision == "fp16" and count == 0:
        raise ValueError("precision=fp16 needs a GPU, but torch finds 0 here; use precision=bf16")
    if count == 0:
        return torch.device("cpu")
    local_rank, num_processes = config.rank.local_rank, config.rank.local_world_size
    if num_processes > count:  # the same on every rank
        raise ValueError(
            f"hardware.devices_per_node={num_processes} needs one CUDA device per process, but torch finds {count} here; "
            f"set hardware.devices_per_node={count}, or hardware.device=cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def count_examples(tensors: Tensors) -> int:
    """Number of examples in a batch."""
    return len(tensors if isinstance(tensors, Tensor) else tensors[0])


def split_micro_batches(batch: Batch, num_parts: int) -> Iterator[Batch]:
    """Split a batch into equal micro-batches, in order."""
    size = count_examples(batch[0])
    if size % num_parts:
        raise ValueError(
            f"num_accumulation={num_parts} cannot split a batch of {size} evenly; use a batch size that it divides"
        )
    for start in range(0, size, size // num_parts):
        select = itemgetter(slice(start, start + size // num_parts))
        yield _map_tensors(batch[0], select), _map_tensors(batch[1], select)


def average_metrics(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Average the metrics of equal micro-batches."""
    return (
        parts[0] if len(parts) == 1 else {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
    )


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode, and restore the mode of every module at the end."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def evaluate(
    forward: Forward,
    module: nn.Module,
    model: Callable[[Tensors], Tensors],
    batches: Iterable[tuple[Batch, bool]],
    evaluator: AnyEvaluator,
    ranks: ProcessGroups,
    *,
    whole: nn.Module | None = None,
    keeps_tensors: bool = False,
) -> dict[str, float]:
    """`Engine.evaluate` for engines in which every rank runs the whole forward pass.

    Args:
        forward: its objective takes whole outputs, not slices.
        module: the module to set into evaluation mode.
        model: the function to call: ``module``, or a function that gathers its outputs.
        batches: this replica's batches, and whether each is counted.
        evaluator: its sums are added up over the replicas.
        ranks: the process groups.
        whole: the model, for an evaluator that calls it; None: ``module``.
        keeps_tensors: the model stores tensors that it computes and trains on them later, so they must not be inference
            tensors.
    """
    accumulator = MetricAccumulator(evaluator, forward.objective, whole or module)
    ranks.broadcast_buffers(module)
    with evaluation_mode(module):
        for batch, is_counted in batches:
            # Leave inference mode before the next batch is fetched: a data set may cache tensors, and torch cannot train
            # on inference tensors.
            with torch.no_grad() if keeps_tensors else torch.inference_mode():
                inputs, targets = forward.move_to_device(batch)
                with forward.autocast():
                    accumulator.add(model(inputs), targets, is_counted, inputs)
        with torch.no_grad():
            return accumulator.compute(ranks)


def _map_tensors(tensors: Tensors, change: Callable[[Tensor], Tensor]) -> Tensors:
    return change(tensors) if isinstance(tensors, Tensor) else tuple(change(tensor) for tensor in tensors)


def _to_channels_last(tensor: Tensor) -> Tensor:
    """Change the memory order of images; convolutions keep it. Other tensors are returned unchanged."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
