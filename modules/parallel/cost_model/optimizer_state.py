"""What an optimizer keeps between its updates and needs for one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, SparseAdam

from modules.parallel.cost_model.tensor_lifetimes import TensorLifetimes

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
SAMPLE_SIZE = 4096


def measure_state_bytes(make: MakeOptimizer, parameters: Sequence[nn.Parameter]) -> list[int]:
    """Bytes of the state of every parameter after a step.

    Args:
        make: gives an optimizer over parameters.
        parameters: on the meta device.
    """
    alike = {(parameter.shape, parameter.dtype): parameter for parameter in parameters}  # they get the same
    sizes = dict(zip(alike, _states_bytes(make, list(alike.values())), strict=True))
    return [sizes[parameter.shape, parameter.dtype] for parameter in parameters]


def _states_bytes(make: MakeOptimizer, parameters: Sequence[nn.Parameter]) -> list[int]:
    if not parameters:
        return []
    try:
        return _after_a_step(make, parameters)
    except RuntimeError:  # NAdam and others read a value, and the meta device has none
        sizes = [_after_a_step(make, [nn.Parameter(torch.zeros(size, device="cpu"))])[0] for size in (2, 3)]
        a_number, a_parameter = sizes[1] - sizes[0], 3 * sizes[0] - 2 * sizes[1]
        return [a_number * parameter.numel() + a_parameter for parameter in parameters]


def measure_update_bytes(make: MakeOptimizer) -> float:
    """What the update of a parameter takes for a moment, for every byte of the parameter."""
    with torch.device("cpu"):
        sample = nn.Parameter(torch.zeros(SAMPLE_SIZE))
        optimizer = make([sample])
        _step(optimizer, [sample])
        with TensorLifetimes() as living:
            optimizer.step()
    return float(living.peak_bytes / (SAMPLE_SIZE * sample.element_size()))


def _after_a_step(make: MakeOptimizer, parameters: Sequence[nn.Parameter]) -> list[int]:
    with torch.device(parameters[0].device):  # some make their state with them, Adagrad a tensor of one number too
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
    """A step by gradients of zeros, sparse ones for an optimizer that takes no others."""
    is_sparse = isinstance(optimizer, SparseAdam)
    for parameter in parameters:
        zeros = torch.zeros_like(parameter)
        parameter.grad = zeros.to_sparse() if is_sparse else zeros
    optimizer.step()
