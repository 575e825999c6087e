"""Memory of an optimizer: its state, and the temporary memory of an update."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, SparseAdam

from modules.optimizer.base import needs_closure
from modules.parallel.cost_model.tensor_lifetimes import TensorLifetimes

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
SAMPLE_SIZE = 4096


def measure_state_bytes(make: MakeOptimizer, parameters: Sequence[nn.Parameter]) -> list[int]:
    """Measure the bytes of optimizer state of each parameter after a step.

    Args:
        make: makes an optimizer for parameters.
        parameters: on the meta device.
    """
    distinct = {(parameter.shape, parameter.dtype): parameter for parameter in parameters}
    sizes = dict(zip(distinct, _measure_distinct(make, list(distinct.values())), strict=True))
    return [sizes[parameter.shape, parameter.dtype] for parameter in parameters]


def _measure_distinct(make: MakeOptimizer, parameters: Sequence[nn.Parameter]) -> list[int]:
    if not parameters:
        return []
    try:
        return _measure_after_step(make, parameters)
    except RuntimeError:  # NAdam and others read a value, but the meta device has no values
        sizes = [_measure_after_step(make, [nn.Parameter(torch.zeros(size, device="cpu"))])[0] for size in (2, 3)]
        per_element, per_parameter = sizes[1] - sizes[0], 3 * sizes[0] - 2 * sizes[1]
        return [per_element * parameter.numel() + per_parameter for parameter in parameters]


def measure_update_bytes(make: MakeOptimizer, shapes: Sequence[Sequence[int]] = ()) -> float:
    """Measure the temporary memory of an update, per byte of the parameter.

    Args:
        make: makes an optimizer for parameters.
        shapes: of the model's parameters, for an optimizer that refuses a vector.
    """
    try:
        return _measure_update(make, [SAMPLE_SIZE])
    except ValueError:
        if not shapes:
            raise
        return _measure_update(make, max(shapes, key=prod))


def _measure_update(make: MakeOptimizer, shape: Sequence[int]) -> float:
    with torch.device("cpu"):
        sample = nn.Parameter(torch.zeros(*shape))
        optimizer = make([sample])
        _step(optimizer, [sample])
        with TensorLifetimes() as lifetimes:
            _update(optimizer)
    return float(lifetimes.peak_bytes / sample.nbytes)


def _measure_after_step(make: MakeOptimizer, parameters: Sequence[nn.Parameter]) -> list[int]:
    with torch.device(parameters[0].device):  # Adagrad makes state in its constructor
        optimizer = make(parameters)
        try:
            _step(optimizer, parameters)
        finally:
            optimizer.zero_grad(set_to_none=True)
    return [
        sum(value.nbytes for value in optimizer.state[parameter].values() if isinstance(value, Tensor))
        for parameter in parameters
    ]


def _step(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> None:
    """Make a step with zero gradients; SparseAdam gets sparse gradients."""
    is_sparse = isinstance(optimizer, SparseAdam)
    for parameter in parameters:
        zeros = torch.zeros_like(parameter)
        parameter.grad = zeros.to_sparse() if is_sparse else zeros
    _update(optimizer)


def _update(optimizer: Optimizer) -> None:
    """Make an update; what L-BFGS keeps of earlier updates is not counted."""
    if needs_closure(optimizer):
        optimizer.step(lambda: 0.0)
    else:
        optimizer.step()
