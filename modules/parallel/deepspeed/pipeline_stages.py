"""A list of layers as DeepSpeed's pipeline wants it: cut into stages, with what is tied told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from io import StringIO
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.pipe import PipelineModule, TiedLayerSpec
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from torch import Tensor, nn

from modules.data.base import Tensors
from modules.model.base import Layered
from modules.parallel.base import EngineConfig, TrainingTask
from modules.parallel.cost_model.compatibility import Partition, find_incompatibilities, find_stage_bounds
from modules.parallel.cost_model.partition import partition_balanced


class Stages(PipelineModule):  # type: ignore[misc]  # DeepSpeed has no types
    """This rank's stage of a model; it holds the model's own layers, so that names and seeds stay what they are."""

    def __init__(
        self,
        task: TrainingTask,
        config: EngineConfig,
        partition: Partition,
        autocast: Callable[[], AbstractContextManager[object]],
        loss: Callable[[Tensors, Tensors], Tensor],
    ) -> None:
        """
        Args:
            learner: its model is whole, or split over the model axis, and fits the topology (`fits.misfits`).
            recipe: with the topology.
            partition: as in `Pipeline`.
            autocast: the precision of a forward pass.
            loss: of outputs and targets, on the last stage.
        """
        topology = config.topology
        assert isinstance(task.model, Layered)
        layers = task.model.layers()
        self._autocast = autocast
        if partition == "time":
            self._bounds = partition_balanced(_measured(layers, task, config, autocast), topology.pipe)
            if problems := find_incompatibilities(task.model, topology, self._bounds[:-1]):
                raise ValueError("; ".join(problems))
        else:
            self._bounds = find_stage_bounds(task.model, topology.pipe, partition)
        grid = PipeModelDataParallelTopology(num_pp=topology.pipe, num_mp=topology.model, num_dp=topology.data)
        with redirect_stdout(StringIO()):  # it prints its arrangement, which the plan has told
            super().__init__(_with_ties(layers), topology=grid, loss_fn=loss)
        self._layer_specs = [None] * len(layers)  # other stages' layers need not stay in memory
        # Of the layers of a stage that are tied with each other, DeepSpeed holds the first alone.
        self.own = nn.ModuleList(layers[self._local_start : self._local_stop]).to(next(self.parameters()).device)
        self._count_tied_once()

    def forward(self, forward_input: Tensors) -> Tensors:
        with self._autocast():
            outputs: Tensors = super().forward(forward_input)
        # What is sent has to be contiguous, and an LSTM's outputs are not.
        contiguous: Tensors = _each(outputs, lambda tensor: tensor.contiguous())
        return contiguous

    def _partition_layers(self, method: str = "") -> None:
        self.parts = self._bounds
        stage = self._topo.get_coord(self.global_rank).pipe
        self._set_bounds(start=self.parts[stage], stop=self.parts[stage + 1])

    def _count_tied_once(self) -> None:
        """DeepSpeed marks all parameters of a layer with a tied one as another stage's; only the tied one is."""
        for key, comm in self.tied_comms.items():
            tied = {id(self._recursive_getattr(self.tied_modules[key], name)) for name in comm["weight_attr"]}
            for parameter in self.tied_modules[key].parameters():
                if id(parameter) not in tied:
                    parameter.ds_pipe_replicated = False


def _with_ties(layers: Sequence[nn.Module]) -> list[Any]:
    """The layers, those that share a parameter as DeepSpeed's specifications of tied layers."""
    owners: dict[int, list[int]] = {}
    for number, layer in enumerate(layers):
        for parameter in layer.parameters():
            owners.setdefault(id(parameter), []).append(number)
    groups: dict[tuple[int, ...], list[int]] = {}  # what layers share, in the same order on all ranks
    for parameter_id, numbers in owners.items():
        if len(numbers) > 1:
            groups.setdefault(tuple(numbers), []).append(parameter_id)
    specs: list[Any] = list(layers)
    for tied, shared in groups.items():
        for number in tied:
            if isinstance(specs[number], _Tied):
                raise ValueError(
                    f"layer {number} of the model shares weights with different layers, {list(tied)} and others, and a pipeline "
                    "can tie a layer once; cut the model into larger layers, or take parallel=data"
                )
            names = {id(parameter): name for name, parameter in layers[number].named_parameters()}
            specs[number] = _Tied(f"tied_{tied[0]}", layers[number], [names[each] for each in shared])
    return specs


class _Tied(TiedLayerSpec):  # type: ignore[misc]  # DeepSpeed has no types
    """A layer that is there already and shares parameters with others."""

    def __init__(self, key: str, layer: nn.Module, shared: list[str]) -> None:
        # It calls itself: the first of those that are tied would else stand for all on its stage.
        super().__init__(key, nn.Module, forward_fn=lambda first, inputs: layer(inputs), tied_weight_attr=shared)
        self.layer = layer

    def build(self, log: bool = False) -> nn.Module:
        return self.layer


def _measured(
    layers: Sequence[nn.Module],
    task: TrainingTask,
    config: EngineConfig,
    autocast: Callable[[], AbstractContextManager[object]],
    repeats: int = 3,
) -> list[float]:
    """Seconds of a forward and backward pass of every layer on a micro-batch, as rank 0 measured them, on the CPU."""
    assert task.example is not None
    value: Any = task.example(config.batch_size_per_device)[0]
    seconds: list[float] = []
    for layer in layers:
        best, buffers = float("inf"), [buffer.clone() for buffer in layer.buffers()]
        outputs: Any = None
        for _ in range(repeats):
            inputs = _each(value, lambda tensor: tensor.detach().requires_grad_(tensor.is_floating_point()))
            begin = time.perf_counter()
            with autocast():
                outputs = layer(inputs)
            ends = [tensor.sum() for tensor in _tensors(outputs) if tensor.requires_grad]
            if ends:
                torch.autograd.backward(ends)
            best = min(best, time.perf_counter() - begin)
        layer.zero_grad(set_to_none=True)
        for buffer, before in zip(layer.buffers(), buffers, strict=True):
            buffer.copy_(before)  # nothing was learnt
        seconds.append(best)
        value = _each(outputs, lambda tensor: tensor.detach())
    told = [seconds]
    if config.topology.world > 1:
        dist.broadcast_object_list(told, src=0)
    return told[0]


def _each(tensors: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return tuple(change(tensor) for tensor in tensors) if isinstance(tensors, tuple) else change(tensors)


def _tensors(tensors: Any) -> tuple[Tensor, ...]:
    return tensors if isinstance(tensors, tuple) else (tensors,)
