"""Code that all engines share: device, precision, forward pass with its loss, and evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from modules.data.base import Tree, slice_rows
from modules.evaluator.base import AnyEvaluator, ModelEvaluator, list_evaluators
from modules.parallel.base import EngineConfig
from modules.parallel.process_groups import ProcessGroups
from modules.task.base import Evaluation, Phase, StepContext, Task
from modules.task.supervised import Supervised

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Forward:
    """Forward pass and loss of one rank."""

    def __init__(self, task: Task, config: EngineConfig) -> None:
        """
        Raises:
            ValueError: this machine does not have the device.
        """
        self.device = find_device(config)
        self.task, self.config = task, config
        self.shard: tuple[int, int] | None = None
        """Which part of the global batch this process computes, and of how many; None: as its process groups say."""
        self.precision = config.precision
        self.channels_last = config.channels_last
        for part in (task, getattr(task, "objective", None)):
            if isinstance(part, nn.Module):  # it may hold tensors, such as class weights
                part.to(self.device)

    def autocast(self) -> AbstractContextManager[object]:
        dtype = AUTOCAST.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def compute_loss(self, model: nn.Module, micro_batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of a micro-batch, which is on the CPU, as its part of the mean over the step."""
        batch = self.move_to_device(micro_batch.batch)
        with self.autocast():
            loss = self.task.loss(model, batch, micro_batch.context)
        return micro_batch.scale(loss.mean), {name: micro_batch.scale(value) for name, value in loss.metrics.items()}

    def split(self, batch: Tree, step: int, ranks: ProcessGroups, phase: Phase | None = None) -> list[MicroBatch]:
        """Split this replica's batch of a step into equal micro-batches, in order. All replicas call it together.

        Args:
            batch: on the CPU.
            step: counted from 0.
            ranks: the process groups.
            phase: of the task; None: its only one.
        """
        config, name = self.config, (phase or Phase()).name
        parts = list(split_batch(batch, config.num_accumulation))
        weights = [self.task.weight(part) for part in parts]
        factors: Sequence[Tensor | None] = [None] * len(parts)
        if weights[0] is not None:  # they stay on the device of the batch: to read them would wait for it in each step
            stacked = torch.stack([torch.as_tensor(weight).detach().double() for weight in weights])
            total = ranks.sum(stacked.sum(), "data")
            # 1 where all micro-batches of all replicas weigh the same
            factors = (stacked * (len(parts) * ranks.topology.data / total.clamp_min(1e-300))).unbind()
        size = count_examples(batch)
        number, count = self.shard or (ranks.coordinates.data, ranks.topology.data)
        first, num_rows = number * size, count * size
        rows = range(first, first + size, size // len(parts))
        seed = derive_seed(config.seed, step, name)
        return [
            MicroBatch(part, StepContext(step, config.num_steps, name, True, seed, row, num_rows), factor)
            for part, row, factor in zip(parts, rows, factors, strict=True)
        ]

    def move_to_device(self, batch: Tree) -> Tree:
        if self.channels_last:
            batch = self._change_inputs(batch)
        return batch if self.device.type == "cpu" else tree_map(self._copy, batch)

    def _change_inputs(self, batch: Tree) -> Tree:
        if not isinstance(batch, tuple):
            return tree_map(_to_channels_last, batch)
        return (tree_map(_to_channels_last, batch[0]), *batch[1:])

    def _copy(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.is_cuda:  # the trainer may have copied it ahead
            return value
        return value.pin_memory().to(self.device, non_blocking=True)


@dataclass(frozen=True)
class MicroBatch:
    """A part of a replica's batch."""

    batch: Tree
    context: StepContext
    factor: Tensor | None = None
    """Its weight, divided by the mean weight of all micro-batches of the step; None: all weigh the same."""

    def scale(self, mean: Tensor) -> Tensor:
        """Make a mean over this micro-batch a term of the plain average over all micro-batches."""
        return mean if self.factor is None else mean * self.factor.to(mean.dtype)


class MetricAccumulator:
    """Accumulates sums over the batches of an evaluation."""

    def __init__(self, evaluator: AnyEvaluator, whole: nn.Module | None = None) -> None:
        """
        Args:
            evaluator: computes the sums.
            whole: the model, for an evaluator that calls it; None if no rank has the whole model.
        """
        self.evaluators, self.whole = list_evaluators(evaluator), whole
        self.sums: Tensor | None = None
        self.sizes: list[int] = []
        """How many of the sums belong to each evaluator."""
        self.totals: dict[str, Tensor] = {}
        self.weight = 0.0

    def add(self, evaluation: Evaluation, batch: Tree, is_counted: bool, weight: Tensor | None = None) -> None:
        """Add the sums of one batch. A batch that is not counted only sets the names and shapes, if it comes first.

        Args:
            evaluation: metrics and outputs.
            batch: on the device; an evaluator that compares outputs does not need it.
            is_counted: whether its examples count.
            weight: what its metrics are means over; None: its examples.
        """
        size = (count_examples(batch) if weight is None else float(weight)) if is_counted else 0.0
        if is_counted:
            sums = self._compute_sums(evaluation, batch)
            self.sums = sums if self.sums is None else self.sums + sums
        elif self.sums is None:
            self.sums = torch.zeros_like(self._compute_sums(evaluation, batch, only_first=True))
        for name, value in evaluation.metrics.items():
            self.totals[name] = self.totals.get(name, 0.0) + value.detach().double() * size
        self.weight += size

    def _compute_sums(self, evaluation: Evaluation, batch: Tree, *, only_first: bool = False) -> Tensor:
        """Sums of a batch; with ``only_first``, an evaluator that calls the model, which can be slow, gets one example."""
        parts: list[Tensor] = []
        for evaluator in self.evaluators.values():
            if not isinstance(evaluator, ModelEvaluator):
                parts.append(evaluator.update(evaluation.outputs, evaluation.targets))
                continue
            assert self.whole is not None, "the plan has refused this layout"
            rows = slice_rows(batch, slice(1 if only_first else None))
            parts.append(evaluator.update_with_model(self.whole, rows))
        self.sizes = [len(part) for part in parts]
        # Those of an evaluator that works on the CPU join the metrics of the task, which are on the device of the batch.
        device = next((leaf.device for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)), parts[0].device)
        return torch.cat([part.to(device, torch.float64) for part in parts])

    def _compute_metrics(self, sums: Tensor) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for (prefix, evaluator), part in zip(self.evaluators.items(), torch.split(sums, self.sizes), strict=True):
            if isinstance(evaluator, ModelEvaluator):
                assert self.whole is not None, "the plan has refused this layout"
                own = evaluator.compute_with_model(self.whole, part)
            else:
                own = evaluator.compute(part)
            if not prefix:
                return own
            metrics |= {f"{prefix}{name}": value for name, value in own.items()}
        return metrics

    def compute(self, ranks: ProcessGroups) -> dict[str, float]:
        """Metrics over the counted examples of all replicas; call it on all ranks that called `add`.

        Raises:
            ValueError: there was no batch, or a metric of the task and one of the evaluator have the same name.
        """
        if self.sums is None:
            raise ValueError("evaluate needs at least one batch, but got 0; check that the split is not empty")
        count = torch.tensor([self.weight], dtype=torch.float64, device=self.sums.device)
        flat = ranks.sum(torch.cat([count, self.sums, *(total.reshape(1) for total in self.totals.values())]), "data")
        values = flat.to("cpu", torch.float64)
        sums, totals = values[1 : 1 + len(self.sums)], values[1 + len(self.sums) :]
        means = {
            name: float(total) / max(float(values[0]), 1e-300) for name, total in zip(self.totals, totals, strict=True)
        }
        metrics = self._compute_metrics(sums)
        if isinstance(metrics, Mapping) and (twice := [*means.keys() & metrics.keys()]):
            raise ValueError(
                f"{', '.join(sorted(twice))}: the task and the evaluator both compute a metric of this name; rename one of them"
            )
        return means | metrics


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


def count_examples(batch: Tree) -> int:
    """Number of examples in a batch.

    Raises:
        ValueError: it has no tensor.
    """
    first = batch
    while isinstance(first, tuple | dict) and first:  # the common cases, without a walk over the tree
        first = first[0] if isinstance(first, tuple) else next(iter(first.values()))
    if not isinstance(first, Tensor):
        first = next((leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)), None)
    if first is None:
        raise ValueError(f"a batch is a tree of tensors, but this one is {type(batch).__name__} without a tensor")
    return len(first)


def split_batch(batch: Tree, num_parts: int) -> Iterator[Tree]:
    """Split a batch into equal parts, in order."""
    size = count_examples(batch)
    if size % num_parts:
        raise ValueError(
            f"num_accumulation={num_parts} cannot split a batch of {size} evenly; use a batch size that it divides"
        )
    if num_parts == 1:
        yield batch
        return
    for start in range(0, size, size // num_parts):
        yield slice_rows(batch, slice(start, start + size // num_parts))


def derive_seed(seed: int, step: int, phase: str) -> int:
    """A seed of 62 bits for one phase of one step."""
    digest = hashlib.blake2b(f"{seed} {step} {phase}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2


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
    model: Any,
    batches: Iterable[tuple[Tree, bool]],
    evaluator: AnyEvaluator,
    ranks: ProcessGroups,
    *,
    whole: nn.Module | None = None,
    keeps_tensors: bool = False,
) -> dict[str, float]:
    """`Engine.evaluate` for engines in which every rank runs the whole forward pass.

    Args:
        forward: the objective of its task takes whole outputs, not slices.
        module: the module to set into evaluation mode.
        model: the function to call: ``module``, or a function that gathers its outputs.
        batches: this replica's batches, and whether each is counted.
        evaluator: its sums are added up over the replicas.
        ranks: the process groups.
        whole: the model, for an evaluator that calls it; None: ``module``.
        keeps_tensors: the model stores tensors that it computes and trains on them later, so they must not be inference
            tensors.
    """
    accumulator = MetricAccumulator(evaluator, whole or module)
    task = forward.task
    # Inference mode is faster, but a task of a user may need gradients, such as those of the outputs by the inputs.
    may_infer = type(task) is Supervised and not keeps_tensors
    context = StepContext(0, forward.config.num_steps, is_training=False, seed=derive_seed(forward.config.seed, -1, ""))
    ranks.broadcast_buffers(module)
    with evaluation_mode(module):
        for batch, is_counted in batches:
            # Leave inference mode before the next batch is fetched: a data set may cache tensors, and torch cannot train
            # on inference tensors.
            with torch.inference_mode() if may_infer else torch.no_grad():
                weight = task.weight(batch)
                own = forward.move_to_device(batch)
                with forward.autocast():
                    accumulator.add(task.evaluate(model, own, replace(context)), own, is_counted, weight)
        with torch.no_grad():
            return accumulator.compute(ranks)


def _to_channels_last(tensor: Any) -> Any:
    """Change the memory order of images; convolutions keep it. Other values are returned unchanged."""
    is_image = isinstance(tensor, Tensor) and tensor.dim() == 4
    return tensor.contiguous(memory_format=torch.channels_last) if is_image else tensor
