"""All trained weights of a model as one vector, and its buffers as another: what parameter servers send and receive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from modules.parallel import checkpoint_format as state


@dataclass(frozen=True)
class Piece:
    """A parameter, or the part of it that belongs to one shard."""

    name: str
    number: int
    """Number of the parameter, in the model's order."""
    start: int
    """First position in the whole vector."""
    stop: int
    offset: int
    """Position of its first number within the parameter."""
    shape: tuple[int, ...]
    """The parameter's shape if the piece is the whole parameter, else ``[stop - start]``."""
    is_whole: bool


class FlatParameters:
    """Maps the trained parameters of a model to one vector, in the model's order."""

    def __init__(self, model: nn.Module) -> None:
        """
        Raises:
            ValueError: the parameters have different dtypes.
        """
        tensors = state.name_tensors(model)
        self.parameters = {
            name: tensor
            for name, tensor in tensors.items()
            if isinstance(tensor, nn.Parameter) and tensor.requires_grad
        }
        self.buffers = {name: tensor for name, tensor in tensors.items() if not isinstance(tensor, nn.Parameter)}
        dtypes = {parameter.dtype for parameter in self.parameters.values()}
        if len(dtypes) != 1:
            names = ", ".join(sorted(map(str, dtypes))) or "none"
            raise ValueError(
                f"a parameter server holds weights of one dtype, but {type(model).__name__} has {names}; take parallel=data"
            )
        (self.dtype,) = dtypes
        self.shapes = {name: tuple(parameter.shape) for name, parameter in self.parameters.items()}
        self.size = sum(map(prod, self.shapes.values()))
        self.num_buffers = sum(buffer.numel() for buffer in self.buffers.values())

    def __len__(self) -> int:
        """Number of parameters."""
        return len(self.shapes)

    def shard(self, number: int, count: int) -> tuple[int, int]:
        """Bounds of one of ``count`` shards of nearly equal size; a cut may be inside a parameter."""
        return number * self.size // count, (number + 1) * self.size // count

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        """The pieces of parameters between two bounds."""
        first = 0
        for number, (name, shape) in enumerate(self.shapes.items()):
            last = first + prod(shape)
            low, high = max(first, start), min(last, stop)
            if low < high or (first == last and start <= first < stop):
                is_whole = (low, high) == (first, last)
                own = shape if is_whole else (high - low,)
                yield Piece(name, number, low, high, low - first, own, is_whole)
            first = last

    def collect(self, vector: Tensor) -> Tensor:
        """Copy the weights of the model into a vector on the CPU."""
        with torch.no_grad():
            for view, parameter in zip(self._views(vector), self.parameters.values(), strict=True):
                view.copy_(parameter)
        return vector

    def spread(self, vector: Tensor) -> None:
        """Copy a vector into the weights of the model."""
        with torch.no_grad():
            for view, parameter in zip(self._views(vector), self.parameters.values(), strict=True):
                parameter.copy_(view)

    def take_gradients(self, vector: Tensor, present: Tensor, *, add: bool = False) -> None:
        """Copy or add the gradients into a vector; a missing gradient is zero there, and 0 in ``present``.

        Args:
            vector: [size], on the CPU.
            present: float64 [parameters], 1 where there is a gradient.
            add: add to the vector instead of replacing it.
        """
        for number, (view, parameter) in enumerate(zip(self._views(vector), self.parameters.values(), strict=True)):
            if parameter.grad is None:
                if not add:
                    view.zero_()
                    present[number] = 0
                continue
            present[number] = 1
            if add:
                view.add_(parameter.grad.to(view.device))
            else:
                view.copy_(parameter.grad)

    def give_gradients(self, vector: Tensor) -> None:
        """Copy a vector into the existing gradients."""
        for view, parameter in zip(self._views(vector), self.parameters.values(), strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(view)

    def take_buffers(self, vector: Tensor) -> Tensor:
        """Copy the buffers into a float64 vector, which holds every float32 and every count exactly."""
        for view, buffer in zip(self._split(vector, self.buffers.values()), self.buffers.values(), strict=True):
            view.copy_(buffer)
        return vector

    def give_buffers(self, vector: Tensor) -> None:
        for view, buffer in zip(self._split(vector, self.buffers.values()), self.buffers.values(), strict=True):
            buffer.copy_(view)

    def _views(self, vector: Tensor) -> Iterator[Tensor]:
        return self._split(vector, self.parameters.values())

    @staticmethod
    def _split(vector: Tensor, likes: Iterable[Tensor]) -> Iterator[Tensor]:
        first = 0
        for like in likes:
            yield vector[first : first + like.numel()].view(like.shape)
            first += like.numel()
