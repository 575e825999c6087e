"""The processes of one training, joined by torch.distributed: who stands where, and how they add up what each has."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore

from modules.parallel.base import Recipe
from modules.parallel.topology import AXES, Topology

TIMEOUT = timedelta(minutes=10)  # for one collective; a rank that died is noticed at once, one that hangs after this


class Ranks:
    """One process among those of a topology; alone, it never touches torch.distributed."""

    def __init__(self, recipe: Recipe, *, always: bool = False) -> None:
        """Meet the others; where a process group exists already, it is used.

        Args:
            recipe: its topology and rank.
            always: make groups also where there is nobody to meet.
        """
        self.topology: Topology = recipe.topology
        self.number = recipe.rank.number
        self.place = self.topology.place(self.number)
        self.groups: dict[str, dist.ProcessGroup] = {}
        if self.topology.world == 1 and not always:
            return
        if not dist.is_initialized():
            self._meet(recipe)
        for axis in AXES:
            self._join(axis)

    def _meet(self, recipe: Recipe) -> None:
        backend = "cpu:gloo,cuda:nccl" if recipe.device != "cpu" and torch.cuda.is_available() else "gloo"
        alone = self.topology.world == 1
        dist.init_process_group(
            backend,
            init_method=None if alone else recipe.rank.meeting,
            store=HashStore() if alone else None,
            rank=self.number,
            world_size=self.topology.world,
            timeout=TIMEOUT,
        )

    def _join(self, axis: str) -> None:
        """Make the groups along an axis; every rank has to make all of them, in the same order."""
        seen: set[tuple[int, ...]] = set()
        for number in range(self.topology.world):
            peers = tuple(self.topology.peers(number, axis))
            if peers in seen:
                continue
            seen.add(peers)
            group = dist.new_group(list(peers), timeout=TIMEOUT)
            if self.number in peers:
                self.groups[axis] = group

    def length(self, axis: str) -> int:
        return int(getattr(self.topology, axis))

    def sum(self, tensor: Tensor, *axes: str) -> Tensor:
        """Add up a tensor in place over the ranks along axes, one after the other."""
        for axis in axes:
            if self.length(axis) > 1:
                dist.all_reduce(tensor, group=self.groups[axis])
        return tensor

    def mean(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Means over the replicas, by one message."""
        if self.topology.data == 1 or not metrics:
            return metrics
        stacked = torch.stack([value.detach().float() for value in metrics.values()])
        stacked = self.sum(stacked, "data") / self.topology.data
        return dict(zip(metrics, stacked.unbind(), strict=True))

    def from_last_stage(self, tensor: Tensor) -> Tensor:
        """Bring a tensor of the pipeline's last stage to all its stages, in place."""
        if self.topology.pipe > 1:
            dist.broadcast(tensor, self.topology.peers(self.number, "pipe")[-1], group=self.groups["pipe"])
        return tensor

    def object_from_last_stage(self, value: Any) -> Any:
        """Bring names and numbers of the pipeline's last stage to all its stages."""
        told = [value]
        if self.topology.pipe > 1:
            dist.broadcast_object_list(told, self.topology.peers(self.number, "pipe")[-1], group=self.groups["pipe"])
        return told[0]

    def gather(self, value: float) -> list[float]:
        """One number of every rank, in their order."""
        values = torch.zeros(self.topology.world, dtype=torch.float64)
        values[self.number] = value
        if self.topology.world > 1:
            dist.all_reduce(values)
        return [float(each) for each in values]

    def to_first_stage(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """What all stages of this pipeline hold together, on the first of them; empty on the others.

        Args:
            tensors: on the CPU; of a name that several stages hold, the first one's counts.
        """
        if self.topology.pipe == 1:
            return tensors
        stages = self.topology.peers(self.number, "pipe")
        if self.place.pipe > 0:
            described = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]
            dist.send_object_list([described], stages[0], group=self.groups["pipe"])
            for tensor in tensors.values():
                dist.send(tensor.contiguous(), stages[0], group=self.groups["pipe"])
            return {}
        whole = dict(tensors)
        for stage in stages[1:]:
            told: list[list[tuple[str, torch.dtype, tuple[int, ...]]]] = [[]]
            dist.recv_object_list(told, stage, group=self.groups["pipe"])
            for name, dtype, shape in told[0]:
                received = torch.empty(shape, dtype=dtype)
                dist.recv(received, stage, group=self.groups["pipe"])
                whole.setdefault(name, received)
        return whole
