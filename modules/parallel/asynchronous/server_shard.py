"""One server's part of the weights: it takes gradients, makes updates, and can be restored from a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from modules.optimizer.base import make_optimizer
from modules.parallel.asynchronous.flat_parameters import FlatParameters
from modules.parallel.asynchronous.staleness import Correct
from modules.parallel.checkpoint_format import write_tensors

Policy = Literal["each", "round", "first"]
"""When a shard updates: after each gradient; with the mean of all gradients of a round; with the mean of the first of a round."""
ACCEPTED, DROPPED = 1, 0
MAX_SEEN_CHUNKS = 4096
"""Chunks that a shard remembers. A chunk that arrives again, because its replica died, is not applied twice."""


@dataclass(frozen=True)
class Push:
    """An incoming gradient."""

    chunk: int
    """Number of the chunk: which part of which global batch."""
    update: int
    """Number of its round."""
    version: int
    """Version of the weights it was computed on: the number of updates before."""
    gradient: Tensor
    """[size of the shard]."""
    present: list[float]
    """1 for each parameter that has a gradient, else 0, in the model's order."""
    pulled_weights: Tensor
    """The weights it was computed on."""
    buffers: Tensor
    """float64, of the whole model; only the first shard uses them."""
    leads: bool = True
    """True if its buffers are the ones that a round keeps."""


@dataclass
class ShardSnapshot:
    """A copy of a shard's state."""

    version: int
    weights: Tensor
    buffers: Tensor
    entries: list[dict[str, Tensor | float]]
    seen: list[int] = field(default_factory=list)
    gathering: int = -1

    def write(self, path: Path) -> None:
        """Write it atomically. Without `fsync`: it has to survive the end of a process, not of the machine."""
        tensors, numbers = {"weights": self.weights, "buffers": self.buffers}, []
        for index, entries in enumerate(self.entries):
            tensors |= {f"{index}.{key}": value for key, value in entries.items() if isinstance(value, Tensor)}
            numbers.append({key: value for key, value in entries.items() if not isinstance(value, Tensor)})
        meta = {"version": self.version, "seen": self.seen, "gathering": self.gathering, "numbers": numbers}
        part = path.with_suffix(".part")
        write_tensors(part, tensors, {"state": json.dumps(meta)})
        os.replace(part, path)

    @classmethod
    def read(cls, path: Path) -> ShardSnapshot:
        with safe_open(path, "pt") as file:
            meta = json.loads(file.metadata()["state"])
            entries: list[dict[str, Any]] = [dict(numbers) for numbers in meta["numbers"]]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        for name, tensor in tensors.items():
            index, dot, key = name.partition(".")
            if dot:
                entries[int(index)][key] = tensor
        return cls(meta["version"], tensors["weights"], tensors["buffers"], entries, meta["seen"], meta["gathering"])


class ParameterShard:
    """The weights between two bounds of the flat vector, and their optimizer state.

    Whole parameters keep their shape, so with one server the arithmetic is bit for bit that of a single process.
    """

    def __init__(
        self, flat: FlatParameters, bounds: tuple[int, int], optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        factor: Callable[[int], float], correct: Correct, policy: Policy, quota: int,
    ) -> None:  # fmt: skip
        """
        Args:
            flat: the whole model with its initial weights.
            bounds: first and last position of this shard.
            optimizer: makes an optimizer over the pieces.
            factor: gives the factor of the learning rate for a round.
            correct: corrects stale gradients.
            policy: when the shard updates.
            quota: gradients per update where several are gathered.
        """
        start, stop = bounds
        self.weights = flat.collect(torch.empty(flat.size, dtype=flat.dtype))[start:stop].clone()
        self.buffers = flat.take_buffers(torch.empty(flat.num_buffers, dtype=torch.float64))
        self.pieces = list(flat.pieces(start, stop))
        self._parameters = [
            nn.Parameter(self.weights[piece.start - start : piece.stop - start].view(piece.shape))
            for piece in self.pieces
        ]
        self._offset = start
        names = [piece.name for piece in self.pieces]
        self.optimizer, _ = make_optimizer(optimizer, dict(zip(names, self._parameters, strict=True)))
        self._initial_lrs = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._factor, self._correct, self._quota = factor, correct, quota
        self.policy = policy
        self.version = self.lost = 0
        self._gathered: dict[int, Push] = {}
        self._gathering = -1
        self._seen: dict[int, None] = {}

    def take(self, push: Push) -> int:
        """Take a gradient, and update when that is due; `ACCEPTED` also if the chunk was taken before."""
        if push.chunk in self._seen:
            return ACCEPTED
        if self.policy == "each":
            self._remember(push.chunk)
            factor = self._correct(
                push.gradient, push.pulled_weights, self.weights, max(0, self.version - push.version)
            )
            self._update(push.gradient, push.present, self._factor(push.update) * factor)
            self.buffers.copy_(push.buffers)
            return ACCEPTED
        return self._gather(push)

    def _gather(self, push: Push) -> int:
        if push.update > self._gathering:
            # An unfinished older round was begun by a server that died; this server loses it.
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
        if len(self._seen) > MAX_SEEN_CHUNKS:
            del self._seen[next(iter(self._seen))]

    def _update(self, gradient: Tensor, present: list[float], factor: float) -> None:
        for piece, parameter in zip(self.pieces, self._parameters, strict=True):
            own = gradient[piece.start - self._offset : piece.stop - self._offset]
            parameter.grad = own.view(piece.shape) if present[piece.number] else None
        for group, initial_lr in zip(self.optimizer.param_groups, self._initial_lrs, strict=True):
            group["lr"] = initial_lr * factor
        self.optimizer.step()
        self.version += 1

    def take_snapshot(self) -> ShardSnapshot:
        """Copy the state."""
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
        return ShardSnapshot(self.version, self.weights.clone(), self.buffers.clone(), entries, seen, self._gathering)

    def restore(self, snapshot: ShardSnapshot) -> None:
        """Restore the state from a snapshot."""
        with torch.no_grad():
            self.weights.copy_(snapshot.weights)
            self.buffers.copy_(snapshot.buffers)
        in_groups = [each for group in self.optimizer.param_groups for each in group["params"]]
        order = {id(each): index for index, each in enumerate(in_groups)}
        states = {
            order[id(each)]: dict(entries)
            for each, entries in zip(self._parameters, snapshot.entries, strict=True)
            if entries
        }
        self.optimizer.load_state_dict({"state": states, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.version, self._gathered, self._gathering = snapshot.version, {}, snapshot.gathering
        self._seen = dict.fromkeys(snapshot.seen)
