"""The processes of one training, joined by torch.distributed: who stands where, and how they add up what each has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore, Store, TCPStore

from modules.parallel.base import EngineConfig, Rank
from modules.parallel.topology import AXES, Topology

T = TypeVar("T")
TIMEOUT = timedelta(minutes=10)  # for one collective; a rank that died is noticed at once, one that hangs after this


class ProcessGroups:
    """One process among those of a topology; alone, it never touches torch.distributed."""

    def __init__(self, config: EngineConfig, *, always: bool = False) -> None:
        """Meet the others; where a process group exists already, it is used.

        Args:
            recipe: its topology and rank.
            always: make groups also where there is nobody to meet.
        """
        self.topology: Topology = config.topology
        self.number = config.rank.number
        self.coordinates = self.topology.coordinates(self.number)
        self.groups: dict[str, dist.ProcessGroup] = {}
        if self.topology.world == 1 and not always:
            return
        if not dist.is_initialized():
            self._meet(config)
        for axis in AXES:
            self._join(axis)

    def _meet(self, config: EngineConfig) -> None:
        backend = "cpu:gloo,cuda:nccl" if config.device != "cpu" and torch.cuda.is_available() else "gloo"
        store = HashStore() if self.topology.world == 1 else self._listening(config.rank)
        dist.init_process_group(
            backend,
            init_method=config.rank.rendezvous if store is None else None,
            store=store,
            rank=self.number,
            world_size=self.topology.world,
            timeout=TIMEOUT,
        )

    def _listening(self, rank: Rank) -> Store | None:
        """The store of ranks that meet where the first of them listens; None where they meet at a file."""
        if not rank.rendezvous.startswith("tcp://"):
            return None
        host, _, port = rank.rendezvous.removeprefix("tcp://").rpartition(":")
        return TCPStore(
            host, int(port), self.topology.world, is_master=rank.number == 0, timeout=TIMEOUT, wait_for_workers=False,
            master_listen_fd=rank.listener,
        )  # fmt: skip

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

    def share_buffers(self, module: nn.Module) -> None:
        """Give all replicas the first one's buffers: statistics of their own batches have parted."""
        for buffer in module.buffers() if self.topology.data > 1 else ():
            dist.broadcast(buffer, self.topology.peers(self.number, "data")[0], group=self.groups["data"])

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

    def objects_to_first_replica(self, value: T) -> list[T]:
        """What all replicas hold, on the first of them; on the others nothing."""
        if self.topology.data == 1:
            return [value]
        told: list[Any] = [None] * self.topology.data
        is_first = self.coordinates.data == 0
        first = self.topology.peers(self.number, "data")[0]
        dist.gather_object(value, told if is_first else None, dst=first, group=self.groups["data"])
        return told if is_first else []

    def to_first_replica(self, vector: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """A vector of every replica, on the first of them; on the others nothing.

        Args:
            vector: float [its length], on the CPU.
            lengths: of all, where this is the first.
        """
        replicas = self.topology.peers(self.number, "data")
        if self.coordinates.data > 0:
            dist.send(vector, replicas[0], group=self.groups["data"])
            return []
        vectors = [vector, *(torch.empty(length, dtype=vector.dtype) for length in lengths[1:])]
        for replica, received in zip(replicas[1:], vectors[1:], strict=True):
            dist.recv(received, replica, group=self.groups["data"])
        return vectors

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
        stages, group = self.topology.peers(self.number, "pipe"), self.groups["pipe"]
        if self.coordinates.pipe > 0:
            dist.send_object_list(
                [[(name, each.dtype, tuple(each.shape)) for name, each in tensors.items()]], stages[0], group
            )
            for dtype in _dtypes(tensors.values()):  # one message a dtype: a message costs more than its bytes
                dist.send(
                    torch.cat([each.reshape(-1) for each in tensors.values() if each.dtype == dtype]), stages[0], group
                )
            return {}
        whole = dict(tensors)
        for stage in stages[1:]:
            told: list[list[tuple[str, torch.dtype, tuple[int, ...]]]] = [[]]
            dist.recv_object_list(told, stage, group)
            received = {name: torch.empty(shape, dtype=dtype) for name, dtype, shape in told[0]}
            for dtype in _dtypes(received.values()):
                alike = [each for each in received.values() if each.dtype == dtype]
                joined = torch.empty(sum(each.numel() for each in alike), dtype=dtype)
                dist.recv(joined, stage, group)
                for each, piece in zip(alike, joined.split([each.numel() for each in alike]), strict=True):  # type: ignore[no-untyped-call]
                    each.view(-1).copy_(piece)
            for name, each in received.items():
                whole.setdefault(name, each)
        return whole


def _dtypes(tensors: Iterable[Tensor]) -> list[torch.dtype]:
    """The different ones, in the order in which they come."""
    return list(dict.fromkeys(each.dtype for each in tensors))
