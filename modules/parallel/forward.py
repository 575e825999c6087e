"""What every engine does alike: devices, precision, one forward pass and its loss, and the evaluation of many."""

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
    """The forward pass of one rank, with the objective after it."""

    def __init__(self, objective: Objective, config: EngineConfig) -> None:
        """
        Raises:
            ValueError: this machine has no such device.
        """
        self.device = find_device(config)
        self.objective = objective
        self.precision = config.precision
        self.channels_last = config.channels_last
        if isinstance(objective, nn.Module):  # class weights and the like
            objective.to(self.device)

    def autocast(self) -> AbstractContextManager[object]:
        dtype = AUTOCAST.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def loss(self, model: Callable[[Tensors], Tensors], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of a micro-batch on the CPU, and its metrics."""
        inputs, targets = self.on_device(batch)
        with self.autocast():
            loss, metrics = self.objective(model(inputs), targets)
        return loss, metrics

    def on_device(self, batch: Batch) -> Batch:
        inputs, targets = batch
        if self.channels_last:
            inputs = _each(inputs, _channels_last)
        if self.device.type == "cpu":
            return inputs, targets
        return _each(inputs, self._moved), _each(targets, self._moved)

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory().to(self.device, non_blocking=True)


class MetricAccumulator:
    """Sums over the batches of an evaluation."""

    def __init__(self, evaluator: AnyEvaluator, objective: Objective, whole: nn.Module | None = None) -> None:
        """
        Args:
            evaluator: what measures.
            objective: of whole outputs.
            whole: the model, for an evaluator that asks it; None where no rank has all of it.
        """
        self.evaluator, self.objective, self.whole = evaluator, objective, whole
        self.sums: Tensor | None = None
        self.totals: dict[str, Tensor] = {}
        self.num_examples = 0

    def add(self, outputs: Tensors, targets: Tensors, counts: bool, inputs: Tensors | None = None) -> None:
        """Measure one batch; one that does not count only says which sums there are, where no other did."""
        _, metrics = self.objective(outputs, targets)
        size = count_examples(targets) if counts else 0
        if counts:
            sums = self._measured(inputs, outputs, targets)
            self.sums = sums if self.sums is None else self.sums + sums
        elif self.sums is None:
            self.sums = torch.zeros_like(self._measured(inputs, outputs, targets, only_first=True))
        for name, value in metrics.items():
            self.totals[name] = self.totals.get(name, 0.0) + value.detach().double() * size
        self.num_examples += size

    def _measured(
        self, inputs: Tensors | None, outputs: Tensors, targets: Tensors, *, only_first: bool = False
    ) -> Tensor:
        """Sums of a batch, or of its first example where the model is asked, which may write long texts."""
        if not isinstance(self.evaluator, ModelEvaluator):
            return self.evaluator.update(outputs, targets)
        assert self.whole is not None, "a plan refuses it"
        assert inputs is not None
        asked = itemgetter(slice(1 if only_first else None))
        return self.evaluator.update_with_model(self.whole, (_each(inputs, asked), _each(targets, asked)))

    def _metrics_of(self, sums: Tensor) -> dict[str, float]:
        if not isinstance(self.evaluator, ModelEvaluator):
            return self.evaluator.compute(sums)
        assert self.whole is not None, "a plan refuses it"
        return self.evaluator.compute_with_model(self.whole, sums)

    def metrics(self, ranks: ProcessGroups) -> dict[str, float]:
        """Means over all that counted on all replicas; called by ranks that have measured.

        Raises:
            ValueError: nothing was measured.
        """
        if self.sums is None:
            raise ValueError("evaluate wants at least one batch, but got 0; is the split empty?")
        count = self.sums.new_tensor([self.num_examples])
        flat = ranks.sum(torch.cat([count, self.sums, *(total.reshape(1) for total in self.totals.values())]), "data")
        values = flat.to("cpu", torch.float64)
        sums, totals = values[1 : 1 + len(self.sums)], values[1 + len(self.sums) :]
        means = {name: float(total) / float(values[0]) for name, total in zip(self.totals, totals, strict=True)}
        return means | self._metrics_of(sums)


def find_device(config: EngineConfig) -> torch.device:
    """
    Raises:
        ValueError: this machine has no such device.
    """
    count = torch.cuda.device_count() if config.device != "cpu" and torch.cuda.is_available() else 0
    if config.device == "cuda" and count == 0:
        raise ValueError("hardware.device=cuda wants a CUDA device, but torch finds 0 here; set it to cpu or auto")
    if config.precision == "fp16" and count == 0:
        raise ValueError("precision=fp16 needs a GPU, but torch finds 0 here; take precision=bf16")
    if count == 0:
        return torch.device("cpu")
    number, wanted = config.rank.local_rank, config.rank.local_world_size
    if wanted > count:  # the same on every rank
        raise ValueError(
            f"hardware.devices_per_node={wanted} wants a CUDA device a process, but torch finds {count} here; "
            f"set hardware.devices_per_node={count}, or hardware.device=cpu"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def count_examples(tensors: Tensors) -> int:
    """Examples of a batch."""
    return len(tensors if isinstance(tensors, Tensor) else tensors[0])


def split_micro_batches(batch: Batch, num_parts: int) -> Iterator[Batch]:
    """Cut a batch into equal parts, in order."""
    size = count_examples(batch[0])
    if size % num_parts:
        raise ValueError(
            f"num_accumulation={num_parts} cannot split a batch of {size} evenly; use a batch size that it divides"
        )
    for start in range(0, size, size // num_parts):
        cut = itemgetter(slice(start, start + size // num_parts))
        yield _each(batch[0], cut), _each(batch[1], cut)


def average_metrics(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Metrics of a batch from those of its equal parts."""
    return (
        parts[0] if len(parts) == 1 else {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
    )


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """No dropout, and at the end every module's mode as it was."""
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
    """An engine's `evaluate` where every rank has the whole forward pass.

    Args:
        forward: with the objective of whole outputs.
        module: what is put into evaluation mode.
        model: what is called: the module, or what completes its outputs.
        batches: this replica's, and whether each counts.
        evaluator: its sums are added up over the replicas.
        ranks: those that take part.
        whole: the model itself, for an evaluator that asks it; None: the module, where it has all its weights.
        keeps_tensors: the model keeps what it computes, and trains on it: then nothing may be an inference tensor.
    """
    tally = MetricAccumulator(evaluator, forward.objective, whole or module)
    ranks.share_buffers(module)
    with evaluation_mode(module):
        for batch, counts in batches:
            # Inference mode ends before the next batch is fetched: tensors that a data set caches meanwhile could
            # otherwise never be trained on.
            with torch.no_grad() if keeps_tensors else torch.inference_mode():
                inputs, targets = forward.on_device(batch)
                with forward.autocast():
                    tally.add(model(inputs), targets, counts, inputs)
        with torch.no_grad():
            return tally.metrics(ranks)


def _each(tensors: Tensors, change: Callable[[Tensor], Tensor]) -> Tensors:
    return change(tensors) if isinstance(tensors, Tensor) else tuple(change(tensor) for tensor in tensors)


def _channels_last(tensor: Tensor) -> Tensor:
    """The same images in the order of memory that convolutions then keep; anything else as it is."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
