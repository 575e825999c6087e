"""Counts what a model needs, layer by layer, with shapes alone: nothing is allocated and nothing computed."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from modules.data.base import Batch, Tensors
from modules.model.base import Layered
from modules.objective.base import Objective
from modules.parallel.base import TrainingTask
from modules.parallel.cost_model.layer_counts import LayerCount, ModelCount, Weight
from modules.parallel.cost_model.optimizer_state import measure_state_bytes, measure_update_bytes
from modules.parallel.cost_model.tensor_lifetimes import TensorLifetimes
from modules.parallel.tensor_parallel.shard_model import Shards


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Keep tensors in reference cycles alive: when Python collects them depends on unrelated code, and so would the peaks."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_without_garbage_collection()
def count_model(task: TrainingTask, batch: Batch, precision: str, num_slices: int = 1) -> ModelCount:
    """Count forward pass, backward pass and update of one micro-batch.

    Args:
        learner: its model was built on the meta device, and stays as it is.
        batch: one micro-batch on the meta device.
        precision: "fp32", or "bf16" or "fp16" for autocast.
        num_slices: ranks over which the layers of the model are split, as it says; what one of them has is counted.

    Raises:
        Exception: whatever a model raises that does not take the batch.
    """
    model, objective = copy.deepcopy((task.model, task.objective))
    model.train()
    group = _Absent(num_slices)
    if num_slices > 1:
        with torch.device("meta"):
            objective = Shards(model, objective, cast(dist.ProcessGroup, group)).objective
    weights = _weights(task, list(model.parameters()))
    # A tensor on the meta device has no kernel of its own: attention would keep all scores, and autocast do nothing. Fake
    # ones say that they lie on the CPU. MKL-DNN's LSTM would be one step whose work nobody counts.
    with FakeTensorMode(), _without_mkldnn():
        fakes = {id(new): weights[id(old)] for old, new in _put_fakes(model).items()}
        if isinstance(objective, nn.Module):
            _put_fakes(objective)
        inputs, targets = (_each(part, _fake) for part in batch)
        layers, loss = _Counter(fakes, precision, group).all(model, objective, inputs, targets)
    return ModelCount(
        layers=layers,
        loss=loss,
        inputs_bytes=sum(tensor.nbytes for tensor in _tensors(inputs)),
        targets_bytes=sum(tensor.nbytes for tensor in _tensors(targets)),
        update_bytes=measure_update_bytes(task.optimizer)
        if any(weight.is_trained for weight in weights.values())
        else 0.0,
    )


class _Counter:
    """Runs layers one after the other, each by itself; one that is like another before it is not run again."""

    def __init__(self, weights: Mapping[int, Weight], precision: str, group: _Absent) -> None:
        self.weights, self.precision, self.group = weights, precision, group
        self.known: dict[Any, tuple[LayerCount, Any]] = {}

    def all(
        self, model: nn.Module, objective: Objective, inputs: Tensors, targets: Tensors
    ) -> tuple[tuple[LayerCount, ...], LayerCount]:
        """Counts of all layers, and of the objective."""
        counts: list[LayerCount] = []
        value: Any = inputs
        for layer in model.layers() if isinstance(model, Layered) else [model]:
            found, value = self.one(layer, layer, value)
            counts.append(found)
        loss, _ = self.one(objective, lambda outputs: objective(outputs, targets)[0], value)
        return tuple(counts), loss

    def one(self, part: Any, forward: Callable[[Any], Any], inputs: Any) -> tuple[LayerCount, Any]:
        """A layer's count, and its outputs: fakes that no graph holds."""
        key = (_structure(part), tuple(_form(tensor) for tensor in _tensors(inputs)))
        if key not in self.known:
            self.known[key] = self._run(part, forward, inputs)
        found, outputs = self.known[key]
        weights = self._weights_of(part)
        return LayerCount(**{**vars(found), "weights": weights}), outputs

    def _run(self, part: Any, forward: Callable[[Any], Any], inputs: Any) -> tuple[LayerCount, Any]:
        inputs = _each(inputs, _leaf)
        own = [*part.parameters(), *part.buffers()] if isinstance(part, nn.Module) else []
        before = {_key(tensor) for tensor in (*own, *_tensors(inputs))}
        saved: set[int] = set()
        self.group.exchanged_bytes = self.group.num_exchanges = 0
        with FlopCounterMode(display=False, custom_mapping=_ATTENTION) as counter, TensorLifetimes() as living:
            with _noting(saved), torch.autocast("cpu", torch.bfloat16, enabled=self.precision != "fp32"):
                outputs = forward(inputs)
            forward_bytes, held = living.peak_bytes, living.held_bytes
            given = {_key(tensor): tensor.untyped_storage().nbytes() for tensor in _tensors(outputs)}
            new = sum(size for key, size in given.items() if key not in before)
            ends = [tensor for tensor in _tensors(outputs) if tensor.requires_grad]
            gradients = [torch.empty_like(tensor) for tensor in ends]
            found = _each(outputs, lambda tensor: tensor.detach().requires_grad_(tensor.requires_grad))
            del outputs
            start = living.begin()
            if ends:
                torch.autograd.backward(ends, gradients)
            backward_bytes = living.peak_bytes - start
        count = LayerCount(
            name=type(part).__name__,
            weights=(),
            buffers_bytes=sum(tensor.nbytes for tensor in part.buffers()) if isinstance(part, nn.Module) else 0,
            flops=counter.get_total_flops(),
            num_operations=living.num_operations,
            outputs_bytes=sum(tensor.nbytes for tensor in _tensors(found)),
            saved_bytes=max(0, held - new),
            saves_inputs=bool(saved & {_key(tensor) for tensor in _tensors(inputs)}),
            saves_outputs=bool(saved & given.keys() - before),
            is_view=new == 0,
            forward_bytes=forward_bytes,
            backward_bytes=backward_bytes,
            exchanged_bytes=self.group.exchanged_bytes,
            num_exchanges=self.group.num_exchanges,
        )
        for tensor in own:
            tensor.grad = None
        return count, found

    def _weights_of(self, part: Any) -> tuple[Weight, ...]:
        return (
            tuple(self.weights[id(p)] for p in part.parameters() if id(p) in self.weights)
            if isinstance(part, nn.Module)
            else ()
        )


class _Absent:
    """Stands for a group of ranks of which only this one is there: what it would exchange is counted."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.exchanged_bytes = self.num_exchanges = 0

    def size(self) -> int:
        return self._size

    def rank(self) -> int:
        return 0

    def allreduce(self, tensors: list[Tensor], *options: object) -> _Absent:
        return self._count(tensors[0].nbytes)

    def allgather(self, whole: list[list[Tensor]], *options: object) -> _Absent:
        """Half a sum: that adds up, and then gathers."""
        return self._count(sum(tensor.nbytes for tensor in whole[0]) // 2)

    def wait(self) -> None:
        """Nobody is waited for."""

    def _count(self, size: int) -> _Absent:
        self.exchanged_bytes += size
        self.num_exchanges += 1
        return self


def _weights(task: TrainingTask, parameters: list[nn.Parameter]) -> dict[int, Weight]:
    """Every parameter's count, by its id."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    states = dict(zip(map(id, trained), measure_state_bytes(task.optimizer, trained), strict=True))
    return {
        id(parameter): Weight(
            number, parameter.numel(), parameter.nbytes, states.get(id(parameter), 0), id(parameter) in states
        )
        for number, parameter in enumerate(parameters)
    }


def _put_fakes(module: nn.Module) -> dict[nn.Parameter, nn.Parameter]:
    """Replace all parameters and buffers by fake ones, what is tied by the same; the new parameters, by the old."""
    found: dict[nn.Parameter, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False, remove_duplicate=False)):
            if parameter not in found:
                found[parameter] = nn.Parameter(_fake(parameter), requires_grad=parameter.requires_grad)
            setattr(part, name, found[parameter])  # an LSTM keeps a second list of them, up to date only so
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, _fake(buffer))
    return found


def _structure(part: Any) -> Any:
    """Equal for layers that do the same with other weights; what has no value to compare stands for itself."""
    if not isinstance(part, nn.Module):
        return id(part)
    return tuple(
        (
            type(module),
            tuple(repr(value) for key, value in sorted(vars(module).items()) if not key.startswith("_")),
            tuple((name, _form(tensor)) for name, tensor in module.named_parameters(recurse=False)),
            tuple((name, _form(tensor)) for name, tensor in module.named_buffers(recurse=False)),
        )
        for module in part.modules()
    )


def _form(tensor: Tensor) -> Any:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.requires_grad


@contextmanager
def _without_mkldnn() -> Iterator[None]:
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)  # `torch.backends.mkldnn.flags` warns of other things
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


@contextmanager
def _noting(saved: set[int]) -> Iterator[None]:
    """Note every storage that autograd saves."""

    def pack(tensor: Tensor) -> Tensor:
        saved.add(_key(tensor))
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


def _attention_flops(query: Any, key: Any, value: Any, *others: Any, **named: Any) -> int:
    """Work of the scores, and of the mean that they weigh; a causal mask saves nothing, as this is counted everywhere.

    Args:
        query, key, value: shapes, [batch, heads, time, size].
    """
    return int(2 * prod(query[:3]) * key[2] * (query[3] + value[3]))


def _attention_backward_flops(gradient: Any, query: Any, key: Any, value: Any, *others: Any, **named: Any) -> int:
    """Five products where the forward pass had two: the scores are computed again."""
    return _attention_flops(query, key, value) * 5 // 2


_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _fake(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _each(tensors: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return tuple(change(tensor) for tensor in tensors) if isinstance(tensors, tuple) else change(tensors)


def _tensors(tensors: Any) -> tuple[Tensor, ...]:
    return tensors if isinstance(tensors, tuple) else (tensors,)
