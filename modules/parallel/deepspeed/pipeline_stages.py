"""Cuts a list of layers into stages for DeepSpeed's pipeline, and declares tied weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from io import StringIO
from typing import Any

import torch
from deepspeed.pipe import PipelineModule, TiedLayerSpec
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from torch import Tensor, nn

from modules.data.base import Tensors
from modules.model.base import Layered
from modules.parallel.base import EngineConfig, TrainingSetup
from modules.parallel.cost_model.compatibility import Partition, find_incompatibilities, find_stage_bounds
from modules.parallel.cost_model.partition import partition_balanced
from modules.parallel.process_groups import broadcast_json


class Stages(PipelineModule):  # type: ignore[misc]  # DeepSpeed has no types
    """This rank's stage of a model. It contains the model's layers themselves, so names and seeds do not change."""

    def __init__(
        self,
        setup: TrainingSetup,
        config: EngineConfig,
        partition: Partition,
        autocast: Callable[[], AbstractContextManager[object]],
        loss: Callable[[Tensors, Tensors], Tensor],
    ) -> None:
        """
        Args:
            setup: its model is whole, or split over the model axis, and `find_incompatibilities` returns nothing for it.
            config: with the topology.
            partition: as in `Pipeline`.
            autocast: context of a forward pass, for the precision.
            loss: called with outputs and targets on the last stage.
        """
        topology = config.topology
        assert isinstance(setup.model, Layered)
        layers = setup.model.layers()
        self._autocast = autocast
        if partition == "time":
            self._bounds = partition_balanced(_measure_layers(layers, setup, config, autocast), topology.pipe)
            if problems := find_incompatibilities(setup.model, topology, self._bounds[:-1]):
                raise ValueError("; ".join(problems))
        else:
            self._bounds = find_stage_bounds(setup.model, topology.pipe, partition)
        grid = PipeModelDataParallelTopology(num_pp=topology.pipe, num_mp=topology.model, num_dp=topology.data)
        with redirect_stdout(StringIO()):  # it prints the topology, which the plan has shown
            super().__init__(_declare_ties(layers), topology=grid, loss_fn=loss)
        self._layer_specs = [None] * len(layers)  # frees the layers of other stages
        # If layers of one stage are tied with each other, DeepSpeed keeps only the first of them.
        self.own = nn.ModuleList(layers[self._local_start : self._local_stop]).to(next(self.parameters()).device)
        self._mark_only_tied_parameters()

    def forward(self, forward_input: Tensors) -> Tensors:
        with self._autocast():
            outputs: Tensors = super().forward(forward_input)
        # DeepSpeed sends only contiguous tensors, and the outputs of an LSTM are not contiguous.
        contiguous: Tensors = _map_tensors(outputs, lambda tensor: tensor.contiguous())
        return contiguous

    def _partition_layers(self, method: str = "") -> None:
        self.parts = self._bounds
        stage = self._topo.get_coord(self.global_rank).pipe
        self._set_bounds(start=self.parts[stage], stop=self.parts[stage + 1])

    def _mark_only_tied_parameters(self) -> None:
        """Mark only tied parameters as copies of another stage; DeepSpeed marks all parameters of their layer."""
        for key, comm in self.tied_comms.items():
            tied = {id(self._recursive_getattr(self.tied_modules[key], name)) for name in comm["weight_attr"]}
            for parameter in self.tied_modules[key].parameters():
                if id(parameter) not in tied:
                    parameter.ds_pipe_replicated = False


def _declare_ties(layers: Sequence[nn.Module]) -> list[Any]:
    """Replace layers that share a parameter by DeepSpeed's specifications of tied layers."""
    owners: dict[int, list[int]] = {}
    for number, layer in enumerate(layers):
        for parameter in layer.parameters():
            owners.setdefault(id(parameter), []).append(number)
    groups: dict[tuple[int, ...], list[int]] = {}  # shared parameters by layers, in the same order on all ranks
    for parameter_id, numbers in owners.items():
        if len(numbers) > 1:
            groups.setdefault(tuple(numbers), []).append(parameter_id)
    specs: list[Any] = list(layers)
    for tied, shared in groups.items():
        for number in tied:
            if isinstance(specs[number], _TiedLayer):
                raise ValueError(
                    f"layer {number} of the model shares weights with different groups of layers, {list(tied)} and others, but a "
                    "pipeline can tie a layer only once; cut the model into larger layers, or use parallel=data"
                )
            names = {id(parameter): name for name, parameter in layers[number].named_parameters()}
            specs[number] = _TiedLayer(
                f"tied_{tied[0]}", layers[number], [names[parameter_id] for parameter_id in shared]
            )
    return specs


class _TiedLayer(TiedLayerSpec):  # type: ignore[misc]  # DeepSpeed has no types
    """An existing layer that shares parameters with other layers."""

    def __init__(self, key: str, layer: nn.Module, shared: list[str]) -> None:
        # Calls ``layer``, not ``first``: otherwise the first tied layer of a stage would replace the others.
        super().__init__(key, nn.Module, forward_fn=lambda first, inputs: layer(inputs), tied_weight_attr=shared)
        self.layer = layer

    def build(self, log: bool = False) -> nn.Module:
        return self.layer


def _measure_layers(
    layers: Sequence[nn.Module],
    setup: TrainingSetup,
    config: EngineConfig,
    autocast: Callable[[], AbstractContextManager[object]],
    repeats: int = 3,
) -> list[float]:
    """Seconds of a forward and backward pass of each layer for one micro-batch on the CPU, measured by rank 0."""
    assert setup.example is not None
    value: Any = setup.example(config.batch_size_per_device)[0]
    seconds: list[float] = []
    for layer in layers:
        best, buffers = float("inf"), [buffer.clone() for buffer in layer.buffers()]
        outputs: Any = None
        for _ in range(repeats):
            inputs = _map_tensors(value, lambda tensor: tensor.detach().requires_grad_(tensor.is_floating_point()))
            begin = time.perf_counter()
            with autocast():
                outputs = layer(inputs)
            sums = [tensor.sum() for tensor in _tensors(outputs) if tensor.requires_grad]
            if sums:
                torch.autograd.backward(sums)
            best = min(best, time.perf_counter() - begin)
        layer.zero_grad(set_to_none=True)
        for buffer, before in zip(layer.buffers(), buffers, strict=True):
            buffer.copy_(before)  # undo running statistics
        seconds.append(best)
        value = _map_tensors(outputs, lambda tensor: tensor.detach())
    return seconds if config.topology.world == 1 else list(broadcast_json(seconds, source=0))


def _map_tensors(tensors: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return tuple(change(tensor) for tensor in tensors) if isinstance(tensors, tuple) else change(tensors)


def _tensors(tensors: Any) -> tuple[Tensor, ...]:
    return tensors if isinstance(tensors, tuple) else (tensors,)
