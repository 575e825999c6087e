"""One server's part of the weights: it takes gradients, updates, and can be brought back from a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from modules.parallel.asynchronous.flat_parameters import FlatParameters
from modules.parallel.asynchronous.staleness import Correct

Policy = Literal["each", "round", "first"]
"""When a shard updates: with each gradient; with the mean of all of a round; with that of the first of a round."""
ACCEPTED, DROPPED = 1, 0
REMEMBERED = 4096
"""Chunks that a shard knows to have taken: of one that comes again, as its replica died, it takes none twice."""


@dataclass(frozen=True)
class Push:
    """A gradient that comes in."""

    chunk: int
    """Which part of which global batch it is of."""
    update: int
    """The round that it belongs to."""
    version: int
    """Updates that the weights had seen which it was computed on."""
    gradient: Tensor
    """[size of the shard]."""
    present: list[float]
    """1 of every parameter that has a gradient, in the model's order."""
    then: Tensor
    """The weights that it was computed on."""
    buffers: Tensor
    """float64, the whole model's; counts at the first shard alone."""
    leads: bool = True
    """Whether its buffers are those that count in a round."""


@dataclass
class Frozen:
    """A copy of a shard."""

    version: int
    weights: Tensor
    buffers: Tensor
    entries: list[dict[str, Tensor | float]]
    seen: list[int] = field(default_factory=list)
    gathering: int = -1

    def write(self, path: Path) -> None:
        """Write it, whole or not at all; without `fsync`, as what it outlives is the end of a process."""
        tensors, numbers = {"weights": self.weights, "buffers": self.buffers}, []
        for index, entries in enumerate(self.entries):
            tensors |= {f"{index}.{key}": value for key, value in entries.items() if isinstance(value, Tensor)}
            numbers.append({key: value for key, value in entries.items() if not isinstance(value, Tensor)})
        told = {"version": self.version, "seen": self.seen, "gathering": self.gathering, "numbers": numbers}
        part = path.with_suffix(".part")
        save_file(tensors, part, metadata={"told": json.dumps(told)})
        os.replace(part, path)

    @classmethod
    def read(cls, path: Path) -> Frozen:
        with safe_open(path, "pt") as file:
            told = json.loads(file.metadata()["told"])
            entries: list[dict[str, Any]] = [dict(numbers) for numbers in told["numbers"]]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        for name, tensor in tensors.items():
            index, dot, key = name.partition(".")
            if dot:
                entries[int(index)][key] = tensor
        return cls(told["version"], tensors["weights"], tensors["buffers"], entries, told["seen"], told["gathering"])


class ParameterShard:
    """Weights between two bounds of the flat vector, and the optimizer's state of them.

    Whole parameters keep their shape, so that where nothing is cut the arithmetic is that of one process to the last bit.
    """

    def __init__(
        self, flat: FlatParameters, bounds: tuple[int, int], optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        factor: Callable[[int], float], correct: Correct, policy: Policy, quota: int,
    ) -> None:  # fmt: skip
        """
        Args:
            flat: of the whole model, with its initial weights.
            bounds: of this shard.
            optimizer: makes one over the pieces.
            factor: of the learning rate, by round.
            correct: what is done about staleness.
            policy: when it updates.
            quota: gradients of one update where several are gathered.
        """
        start, stop = bounds
        self.weights = flat.collect(torch.empty(flat.size, dtype=flat.dtype))[start:stop].clone()
        self.buffers = flat.take_buffers(torch.empty(flat.num_buffers, dtype=torch.float64))
        self.pieces = list(flat.pieces(start, stop))
        self._parameters = [
            nn.Parameter(self.weights[piece.start - start : piece.stop - start].view(piece.shape))
            for piece in self.pieces
        ]
        self._start = start
        self.optimizer = optimizer(self._parameters)
        self._initial_lrs = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._factor, self._correct, self._quota = factor, correct, quota
        self.policy = policy
        self.version = self.lost = 0
        self._gathered: dict[int, Push] = {}
        self._gathering = -1
        self._seen: dict[int, None] = {}

    def take(self, push: Push) -> int:
        """Take a gradient, and update where it is time; whether it was accepted, also once before."""
        if push.chunk in self._seen:
            return ACCEPTED
        if self.policy == "each":
            self._remember(push.chunk)
            factor = self._correct(push.gradient, push.then, self.weights, max(0, self.version - push.version))
            self._update(push.gradient, push.present, self._factor(push.update) * factor)
            self.buffers.copy_(push.buffers)
            return ACCEPTED
        return self._gather(push)

    def _gather(self, push: Push) -> int:
        if push.update > self._gathering:
            # What is left of an older round was begun by a server that died: the round is lost here.
            self.lost += bool(self._gathered)
            self._gathered, self._gathering = {}, push.update
        elif push.update < self._gathering or not self._gathered:
            return DROPPED
        self._remember(push.chunk)
        self._gathered[push.chunk] = push
        if len(self._gathered) == self._quota:
            pushes = [self._gathered[chunk] for chunk in sorted(self._gathered)]
            mean = pushes[0].gradient
            for other in pushes[1:]:
                mean.add_(other.gradient)
            if self._quota > 1:
                mean.div_(self._quota)
            present = [max(flags) for flags in zip(*(each.present for each in pushes), strict=True)]
            self._update(mean, present, self._factor(push.update))
            self.buffers.copy_(next((each for each in pushes if each.leads), pushes[0]).buffers)
            self._gathered = {}
        return ACCEPTED

    def _remember(self, chunk: int) -> None:
        self._seen[chunk] = None
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]

    def _update(self, gradient: Tensor, present: list[float], factor: float) -> None:
        for piece, parameter in zip(self.pieces, self._parameters, strict=True):
            own = gradient[piece.start - self._start : piece.stop - self._start]
            parameter.grad = own.view(piece.shape) if present[piece.number] else None
        for group, initial_lr in zip(self.optimizer.param_groups, self._initial_lrs, strict=True):
            group["lr"] = initial_lr * factor
        self.optimizer.step()
        self.version += 1

    def freeze(self) -> Frozen:
        """A copy that nothing changes any more."""
        entries: list[dict[str, Tensor | float]] = [
            {
                key: value.clone() if isinstance(value, Tensor) else value
                for key, value in self.optimizer.state[each].items()
            }
            if each in self.optimizer.state
            else {}
            for each in self._parameters
        ]
        seen = list(self._seen)
        return Frozen(self.version, self.weights.clone(), self.buffers.clone(), entries, seen, self._gathering)

    def thaw(self, frozen: Frozen) -> None:
        """Become what was frozen."""
        with torch.no_grad():
            self.weights.copy_(frozen.weights)
            self.buffers.copy_(frozen.buffers)
        states = {index: dict(entries) for index, entries in enumerate(frozen.entries) if entries}
        self.optimizer.load_state_dict({"state": states, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.version, self._gathered, self._gathering = frozen.version, {}, frozen.gathering
        self._seen = dict.fromkeys(frozen.seen)
