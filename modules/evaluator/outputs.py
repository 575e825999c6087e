"""Runs a model on inputs of a user."""

from __future__ import annotations

from torch import Tensor, nn

from modules.data.base import Tensors


def compute_outputs(model: nn.Module, inputs: Tensors) -> Tensors:
    """Run a model on its device.

    Args:
        inputs: of a batch, on the CPU.

    Returns:
        The outputs, on the CPU.
    """
    device = next(model.parameters()).device
    outputs: Tensors = model(
        inputs.to(device) if isinstance(inputs, Tensor) else tuple(each.to(device) for each in inputs)
    )
    return outputs.cpu() if isinstance(outputs, Tensor) else tuple(each.cpu() for each in outputs)
