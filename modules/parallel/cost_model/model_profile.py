"""Counts FLOPs, memory and communication of a model, layer by layer, from shapes: it allocates and computes no data."""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from math import prod
from typing import Any, ClassVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from modules.data.base import Tensors, Tree, has_method
from modules.model.base import Layered
from modules.objective.base import Objective, apply_objective
from modules.parallel.base import TrainingSetup
from modules.parallel.cost_model.layer_counts import LayerCount, ModelCount, Weight
from modules.parallel.cost_model.lstm_at_once import lstm_at_once
from modules.parallel.cost_model.optimizer_state import measure_state_bytes, measure_update_bytes
from modules.parallel.cost_model.tensor_lifetimes import TensorLifetimes
from modules.parallel.tensor_parallel.shard_model import Shards
from modules.task.base import StepContext, Task
from modules.task.supervised import Supervised


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Keep tensors in reference cycles alive, so that peaks do not depend on when Python collects cycles.

    With collection, unrelated code changed the estimate of one layout from 5.8 to 5.9 GiB (2026-11-29).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _without_tracebacks_of_torch() -> Iterator[None]:
    """Torch 2.13 logs the traceback of an operation that fails on fake tensors; the exception says what is wrong."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@_without_garbage_collection()
@_without_tracebacks_of_torch()
def count_model(setup: TrainingSetup, batch: Tree, precision: str, num_slices: int = 1) -> ModelCount:
    """Count the forward pass, backward pass and update of one micro-batch.

    Args:
        setup: its model is on the meta device and is not changed.
        batch: one micro-batch on the meta device.
        precision: "fp32", or "bf16" or "fp16" for autocast.
        num_slices: ranks over which the layers are split; counts are those of one rank.

    Raises:
        Exception: the model's own error, if it does not accept the batch.
    """
    model, objective = copy.deepcopy((setup.model, setup.objective))
    model.train()
    group = _FakeGroup(num_slices)
    if num_slices > 1:
        with torch.device("meta"):
            objective = Shards(model, objective, cast(dist.ProcessGroup, group)).objective
    weights = _make_weights(setup, list(model.parameters()))
    # Fake tensors report the CPU as their device, so operations choose CPU kernels. On the meta device attention would save
    # all scores, and autocast would do nothing. The FLOP counter does not know the LSTM of MKL-DNN.
    with FakeTensorMode(), _without_mkldnn(), lstm_at_once():
        fakes = {id(new): weights[id(old)] for old, new in _replace_by_fakes(model).items()}
        if isinstance(objective, nn.Module):
            _replace_by_fakes(objective)
        fake_batch, counter = _map_tensors(batch, _make_fake), _Counter(fakes, precision, group)
        task = setup.get_task()
        if type(task) is Supervised:
            layers, loss = counter.count_layers(model, objective, *fake_batch)
        else:
            layers, loss = counter.count_task(model, task, fake_batch)
        is_pair = isinstance(fake_batch, tuple) and len(fake_batch) == 2
        inputs, targets = fake_batch if is_pair else (fake_batch, ())
    return ModelCount(
        layers=layers,
        loss=loss,
        inputs_bytes=sum(tensor.nbytes for tensor in _tensors(inputs)),
        targets_bytes=sum(tensor.nbytes for tensor in _tensors(targets)),
        update_bytes=measure_update_bytes(setup.optimizer, [each.shape for each in setup.model.parameters()])
        if any(weight.is_trained for weight in weights.values())
        else 0.0,
    )


class _Counter:
    """Runs layers one after the other; layers with the same structure and inputs run only once."""

    def __init__(self, weights: Mapping[int, Weight], precision: str, group: _FakeGroup) -> None:
        self.weights, self.precision, self.group = weights, precision, group
        self.cache: dict[Any, tuple[LayerCount, Any]] = {}
        self.record: Callable[[set[int]], AbstractContextManager[None]] = _record_saved

    def count_layers(
        self, model: nn.Module, objective: Objective, inputs: Tensors, targets: Tensors
    ) -> tuple[tuple[LayerCount, ...], LayerCount]:
        """Count all layers and the objective."""
        counts: list[LayerCount] = []
        value: Any = inputs
        for layer in model.layers() if isinstance(model, Layered) and has_method(model, "layers") else [model]:
            count, value = self.count_part(layer, layer, value)
            counts.append(count)
        loss, _ = self.count_part(objective, lambda outputs: apply_objective(objective, outputs, targets)[0], value)
        return tuple(counts), loss

    def count_task(self, model: nn.Module, task: Task, batch: Tree) -> tuple[tuple[LayerCount, ...], LayerCount]:
        """Count all losses of a task, as if the model were one layer."""

        if "per_example_gradients" in task.needs:  # torch.func (2.13) refuses the hooks
            self.record = lambda saved: nullcontext()

        def compute(own: Tree) -> tuple[Tensor, ...]:
            losses = (task.loss(model, own, StepContext(0, 1, phase.name)) for phase in task.phases())
            return tuple(loss.mean for loss in losses)

        count, losses = self.count_part(model, compute, batch)
        return (count,), self.count_part(task, lambda values: values, losses)[0]

    def count_part(self, part: Any, forward: Callable[[Any], Any], inputs: Any) -> tuple[LayerCount, Any]:
        """Count a layer; returns its outputs too, as detached fake tensors."""
        key = (_describe_structure(part), tuple(_describe_tensor(tensor) for tensor in _tensors(inputs)))
        if key not in self.cache:
            self.cache[key] = self._run(part, forward, inputs)
        count, outputs = self.cache[key]
        return replace(count, weights=self._find_weights(part)), outputs

    def _run(self, part: Any, forward: Callable[[Any], Any], inputs: Any) -> tuple[LayerCount, Any]:
        inputs = _map_tensors(inputs, _make_leaf)
        own = [*part.parameters(), *part.buffers()] if isinstance(part, nn.Module) else []
        before = {_storage_key(tensor) for tensor in (*own, *_tensors(inputs))}
        saved: set[int] = set()
        self.group.exchanged_bytes = self.group.num_exchanges = 0
        counter = FlopCounterMode(display=False, custom_mapping=_ATTENTION)
        counter.mod_tracker = _NoModules()  # type: ignore[assignment]
        with counter, TensorLifetimes() as lifetimes:
            with self.record(saved), torch.autocast("cpu", torch.bfloat16, enabled=self.precision != "fp32"):
                outputs = forward(inputs)
            forward_bytes, held = lifetimes.peak_bytes, lifetimes.held_bytes
            output_sizes = {_storage_key(tensor): tensor.untyped_storage().nbytes() for tensor in _tensors(outputs)}
            new_bytes = sum(size for key, size in output_sizes.items() if key not in before)
            differentiable = [tensor for tensor in _tensors(outputs) if tensor.requires_grad]
            gradients = [torch.empty_like(tensor) for tensor in differentiable]
            detached = _map_tensors(outputs, lambda tensor: tensor.detach().requires_grad_(tensor.requires_grad))
            del outputs
            start = lifetimes.reset_peak()
            if differentiable:
                torch.autograd.backward(differentiable, gradients)
            backward_bytes = lifetimes.peak_bytes - start
        count = LayerCount(
            name=type(part).__name__,
            weights=(),
            buffers_bytes=sum(tensor.nbytes for tensor in part.buffers()) if isinstance(part, nn.Module) else 0,
            flops=counter.get_total_flops(),
            num_operations=lifetimes.num_operations,
            outputs_bytes=sum(tensor.nbytes for tensor in _tensors(detached)),
            saved_bytes=max(0, held - new_bytes),
            saves_inputs=bool(saved & {_storage_key(tensor) for tensor in _tensors(inputs)}),
            saves_outputs=bool(saved & output_sizes.keys() - before),
            is_view=new_bytes == 0,
            forward_bytes=forward_bytes,
            backward_bytes=backward_bytes,
            exchanged_bytes=self.group.exchanged_bytes,
            num_exchanges=self.group.num_exchanges,
        )
        for tensor in own:
            tensor.grad = None
        return count, detached

    def _find_weights(self, part: Any) -> tuple[Weight, ...]:
        return (
            tuple(self.weights[id(p)] for p in part.parameters() if id(p) in self.weights)
            if isinstance(part, nn.Module)
            else ()
        )


class _NoModules:
    """In place of torch's tracker of modules, whose hooks refuse gradients of gradients (torch 2.13)."""

    parents: ClassVar = {"Global"}

    def __enter__(self) -> None:
        """Track nothing."""

    def __exit__(self, *_: object) -> None:
        """Track nothing."""


class _FakeGroup:
    """A process group without other ranks: it counts the bytes that collectives would exchange."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.exchanged_bytes = self.num_exchanges = 0

    def size(self) -> int:
        return self._size

    def rank(self) -> int:
        return 0

    def allreduce(self, tensors: list[Tensor], *options: object) -> _FakeGroup:
        return self._count(tensors[0].nbytes)

    def allgather(self, whole: list[list[Tensor]], *options: object) -> _FakeGroup:
        """Counts half of an all-reduce, which is a reduce-scatter and an all-gather."""
        return self._count(sum(tensor.nbytes for tensor in whole[0]) // 2)

    def wait(self) -> None:
        """Returns at once: no data is exchanged."""

    def _count(self, size: int) -> _FakeGroup:
        self.exchanged_bytes += size
        self.num_exchanges += 1
        return self


def _make_weights(setup: TrainingSetup, parameters: list[nn.Parameter]) -> dict[int, Weight]:
    """Make the `Weight` of each parameter, by the parameter's id."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    states = dict(zip(map(id, trained), measure_state_bytes(setup.optimizer, trained), strict=True))
    return {
        id(parameter): Weight(
            number, parameter.numel(), parameter.nbytes, states.get(id(parameter), 0), id(parameter) in states
        )
        for number, parameter in enumerate(parameters)
    }


def _replace_by_fakes(module: nn.Module) -> dict[nn.Parameter, nn.Parameter]:
    """Replace all parameters and buffers by fakes, and keep ties; returns the new parameters by the old ones."""
    fakes: dict[nn.Parameter, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False, remove_duplicate=False)):
            if parameter not in fakes:
                fakes[parameter] = nn.Parameter(_make_fake(parameter), requires_grad=parameter.requires_grad)
            setattr(part, name, fakes[parameter])  # setattr also updates the second list of an LSTM
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, _make_fake(buffer))
    return fakes


def _describe_structure(part: Any) -> Any:
    """Equal for layers that differ only in the values of their weights; other objects are equal only to themselves."""
    if not isinstance(part, nn.Module):
        return id(part)
    return tuple(
        (
            type(module),
            tuple(repr(value) for key, value in sorted(vars(module).items()) if not key.startswith("_")),
            tuple((name, _describe_tensor(tensor)) for name, tensor in module.named_parameters(recurse=False)),
            tuple((name, _describe_tensor(tensor)) for name, tensor in module.named_buffers(recurse=False)),
        )
        for module in part.modules()
    )


def _describe_tensor(tensor: Tensor) -> Any:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.requires_grad


@contextmanager
def _without_mkldnn() -> Iterator[None]:
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)  # `torch.backends.mkldnn.flags` prints unrelated warnings
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


@contextmanager
def _record_saved(saved: set[int]) -> Iterator[None]:
    """Add every storage that autograd saves to ``saved``."""

    def pack(tensor: Tensor) -> Tensor:
        saved.add(_storage_key(tensor))
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


def _attention_flops(query: Any, key: Any, value: Any, *others: Any, **named: Any) -> int:
    """FLOPs of the scores and of the weighted sum. A causal mask does not reduce them, as in other FLOP counters.

    Args:
        query, key, value: shapes, [batch, heads, time, size].
    """
    return int(2 * prod(query[:3]) * key[2] * (query[3] + value[3]))


def _attention_backward_flops(gradient: Any, query: Any, key: Any, value: Any, *others: Any, **named: Any) -> int:
    """Five matrix products instead of two, because the backward pass computes the scores again."""
    return _attention_flops(query, key, value) * 5 // 2


_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


def _make_leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _make_fake(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")


def _storage_key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _map_tensors(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return tree_map_only(Tensor, change, tree)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
