"""Replicas of the whole model, each with a part of the global batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from modules.data.base import ComponentWarning, Tree
from modules.parallel.base import EngineConfig, TrainingSetup
from modules.parallel.single import Single
from modules.parallel.topology import Degree, Settings
from modules.parallel.updates import Update


class DataParallel(Single):
    """Synchronous data parallelism with torch's reducer, which averages gradients while the backward pass still runs.

    Parameters without a gradient, in some or all steps, are trained as in one process: the optimizer leaves out a parameter
    that no replica used in a step. A task that calls parts of the model, or has several phases, gets its gradients averaged
    after the backward pass instead. Does not import DeepSpeed. Source: Li et al. 2020, arXiv:2006.15704.
    """

    is_component = True
    settings: ClassVar[Settings] = {"data": "data"}

    def __init__(self, data: Degree) -> None:
        """
        Args:
            data: number of replicas; "auto": one per device.
        """
        self.data = data

    def prepare(self, setup: TrainingSetup, config: EngineConfig) -> None:
        super().prepare(setup, config)
        if config.topology.world > 1 and self.forward.device.type == "cuda" and _has_sparse_gradients(self.model):
            raise ValueError(
                "model.sparse_gradients=true: NCCL sends only dense gradients between GPUs; set model.sparse_gradients=false, "
                "or use one device"
            )
        device = self.forward.device
        self.all_used = torch.ones(len(self.parameters), device=device)
        self.numbers = {id(parameter): number for number, parameter in enumerate(self.parameters)}
        self.unused: list[int] = []
        self.sparse = {
            id(module.weight)
            for module in self.model.modules()
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse
        }
        self.is_reported = False
        self.averages_itself = config.topology.world > 1 and (
            bool({"whole_model", "phases"}.intersection(self.task.needs)) or len(self.updates) > 1
        )
        if config.topology.world > 1 and not self.averages_itself:
            self.trained = DistributedDataParallel(
                self.model,
                device_ids=[device] if device.type == "cuda" else None,
                process_group=self.ranks.groups["data"],
                gradient_as_bucket_view=True,  # one copy of the gradients instead of two
            )

    def weights(self) -> dict[str, Tensor]:
        return super().weights() if self.ranks.number == 0 else {}

    @contextmanager
    def _gradient_sync(self) -> Iterator[None]:
        """Complete the reduction of a backward pass that did not reach every parameter.

        The reducer waits for the gradient of each parameter; this gives it zeros for the others. Its own way,
        ``find_unused_parameters``, searches the graph in every step, also of models that use all parameters.
        """
        if not isinstance(self.trained, DistributedDataParallel):
            yield
            return
        before = None
        if self.config.num_accumulation > 1:  # a parameter may have a gradient of an earlier micro-batch
            before = [(each.grad, None if each.grad is None else each.grad._version) for each in self.parameters]
        yield
        if before is None:
            self.unused = [number for number, each in enumerate(self.parameters) if each.grad is None]
        else:
            self.unused = [
                number
                for number, (each, (grad, version)) in enumerate(zip(self.parameters, before, strict=True))
                if each.grad is None or (each.grad is grad and each.grad._version == version)
            ]
        if self.unused:
            unused = [self.parameters[number] for number in self.unused]
            if before is not None:  # those of an earlier micro-batch are used all the same
                self.unused = [number for number in self.unused if self.parameters[number].grad is None]
            torch.autograd.backward(unused, [self._zeros(each) for each in unused])

    def _zeros(self, parameter: nn.Parameter) -> Tensor:
        if id(parameter) in self.sparse:
            no_rows = torch.empty(1, 0, dtype=torch.int64, device=parameter.device)
            return torch.sparse_coo_tensor(no_rows, parameter.new_empty(0, *parameter.shape[1:]), parameter.shape)
        return torch.zeros_like(parameter)

    def _update(self, update: Update, batch: Tree, step: int) -> dict[str, Tensor]:
        if self.averages_itself:
            self.ranks.broadcast_buffers(self.model)  # as the reducer does before every forward pass
        return super()._update(update, batch, step)

    def _average(self, metrics: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """Average the metrics, and remove the gradient of parameters that no replica used."""
        if self.averages_itself:
            return self._average_gradients(metrics, update)
        if not isinstance(self.trained, DistributedDataParallel):
            return super()._average(metrics, update)
        used = self.all_used
        if self.unused:
            used = used.clone()
            used[self.unused] = 0
        metrics, counts = self.ranks.mean_and_sum(metrics, used)
        if self.unused:  # only then: reading the counts waits for the device
            nowhere = [number for number in self.unused if not counts[number]]
            for number in nowhere:
                self.parameters[number].grad = None
            self._report(nowhere)
        return metrics

    def _average_gradients(self, metrics: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        """Average metrics and gradients after the backward pass, in two collectives for dense gradients of one dtype."""
        own_used = [each.grad is not None for each in update.parameters]
        used = self.all_used[: len(own_used)]
        if not all(own_used):
            used = torch.tensor(own_used, dtype=used.dtype, device=used.device)
        metrics, counts = self.ranks.mean_and_sum(metrics, used)
        # Only then: reading the counts waits for the device.
        is_used = own_used if all(own_used) else [count > 0 for count in counts.tolist()]
        own = [each for each, used_somewhere in zip(update.parameters, is_used, strict=True) if used_somewhere]
        for parameter in own:
            if parameter.grad is None:
                parameter.grad = self._zeros(parameter)
        self.ranks.average_in_place([parameter.grad for parameter in own if parameter.grad is not None])
        if not all(is_used):
            self._report(
                [
                    self.numbers[id(each)]
                    for each, used_somewhere in zip(update.parameters, is_used, strict=True)
                    if not used_somewhere
                ]
            )
        return metrics

    def _report(self, numbers: list[int]) -> None:
        if self.is_reported or not numbers:
            return
        self.is_reported = True
        named = {id(parameter): name for name, parameter in self.model.named_parameters()}
        names = [named[id(self.parameters[number])] for number in numbers]
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        warnings.warn(
            f"{len(names)} of {len(self.parameters)} parameters got no gradient in a step, so it did not train them: {shown}",
            ComponentWarning,
            stacklevel=2,
        )

    def _no_gradient_sync(self) -> AbstractContextManager[object]:
        if isinstance(self.trained, DistributedDataParallel):
            return self.trained.no_sync()
        return super()._no_gradient_sync()


def _has_sparse_gradients(model: nn.Module) -> bool:
    return any(isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse for module in model.modules())
