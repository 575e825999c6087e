"""Process groups of a training, along the axes of its topology, and the collectives that engines need."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore, Store

from modules.parallel.base import EngineConfig, Rank
from modules.parallel.shared_store import join_store, open_store
from modules.parallel.topology import AXES, Topology

_STORES: list[Store] = []  # torch uses the store as long as the process lives, but does not keep it alive
MAX_JSON_BYTES = 1 << 28
TIMEOUT = timedelta(minutes=10)  # of one collective: a dead rank is noticed at once, a hanging rank after this time


class ProcessGroups:
    """One rank of a topology and its process groups; a single process does not use torch.distributed."""

    def __init__(self, config: EngineConfig, *, always: bool = False) -> None:
        """Join the default process group, unless this process has joined it already, and make a group per axis.

        Args:
            config: with the topology and this rank.
            always: make groups for a single process too.
        """
        self.topology: Topology = config.topology
        self.number = config.rank.number
        self.coordinates = self.topology.coordinates(self.number)
        self.groups: dict[str, dist.ProcessGroup] = {}
        if self.topology.world == 1 and not always:
            return
        if not dist.is_initialized():
            self._init_process_group(config)
        for axis in AXES:
            self._make_groups(axis)

    def _init_process_group(self, config: EngineConfig) -> None:
        check_interfaces()
        backend = "cpu:gloo,cuda:nccl" if config.device != "cpu" and torch.cuda.is_available() else "gloo"
        store = HashStore() if self.topology.world == 1 else self._make_store(config.rank)
        dist.init_process_group(
            backend,
            init_method=config.rank.rendezvous if store is None else None,
            store=store,
            rank=self.number,
            world_size=self.topology.world,
            timeout=TIMEOUT,
        )

    def _make_store(self, rank: Rank) -> Store | None:
        """The store that rank 0 holds; None if the rendezvous is a file."""
        if not rank.rendezvous.startswith("tcp://"):
            return None
        store = open_store(rank) if rank.number == 0 else join_store(rank)
        _STORES.append(store)
        return store

    def _make_groups(self, axis: str) -> None:
        """Make all groups along an axis: torch requires every rank to make each group, in the same order."""
        seen: set[tuple[int, ...]] = set()
        for number in range(self.topology.world):
            peers = tuple(self.topology.peers(number, axis))
            if peers in seen:
                continue
            seen.add(peers)
            group = dist.new_group(list(peers), timeout=TIMEOUT)
            if self.number in peers:
                self.groups[axis] = group

    def _axis_length(self, axis: str) -> int:
        return int(getattr(self.topology, axis))

    def sum(self, tensor: Tensor, *axes: str) -> Tensor:
        """Sum a tensor in place over the ranks of one or more axes."""
        for axis in axes:
            if self._axis_length(axis) > 1:
                dist.all_reduce(tensor, group=self.groups[axis])
        return tensor

    def mean(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Average metrics over the replicas, in one collective."""
        if self.topology.data == 1 or not metrics:
            return metrics
        return self.mean_and_sum(metrics, None)[0]

    def mean_and_sum(self, metrics: dict[str, Tensor], vector: Tensor | None) -> tuple[dict[str, Tensor], Tensor]:
        """Average metrics, and sum a float vector on their device, over the replicas, in one collective."""
        parts = [value.detach().float().reshape(1) for value in metrics.values()]
        flat = self.sum(torch.cat([*parts, *([] if vector is None else [vector])]), "data")
        means = (flat[: len(metrics)] / self.topology.data).unbind()
        return dict(zip(metrics, means, strict=True)), flat[len(metrics) :]

    def average_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Average tensors over the replicas: the dense ones of a dtype in one collective, sparse ones one by one."""
        for dtype in _dtypes(tensors) if self.topology.data > 1 else ():
            dense = [tensor for tensor in tensors if tensor.dtype == dtype and not tensor.is_sparse]
            if dense:
                flat = self.sum(torch.cat([tensor.reshape(-1) for tensor in dense]), "data").div_(self.topology.data)
                for tensor, part in zip(dense, flat.split([tensor.numel() for tensor in dense]), strict=True):  # type: ignore[no-untyped-call]
                    tensor.copy_(part.view_as(tensor))
        for tensor in tensors:
            if tensor.is_sparse:
                self.sum(tensor, "data").div_(self.topology.data)

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Copy the first replica's buffers to all replicas, whose batch statistics differ."""
        for buffer in module.buffers() if self.topology.data > 1 else ():
            dist.broadcast(buffer, self.topology.peers(self.number, "data")[0], group=self.groups["data"])

    def broadcast_from_last_stage(self, tensor: Tensor) -> Tensor:
        """Copy a tensor of the last pipeline stage to all stages, in place."""
        if self.topology.pipe > 1:
            dist.broadcast(tensor, self.topology.peers(self.number, "pipe")[-1], group=self.groups["pipe"])
        return tensor

    def broadcast_json_from_last_stage(self, value: Any) -> Any:
        """Copy a value of JSON, such as metrics, from the last pipeline stage to all stages."""
        if self.topology.pipe == 1:
            return value
        return broadcast_json(value, self.topology.peers(self.number, "pipe")[-1], self.groups["pipe"])

    def gather_json_to_first_replica(self, value: Any) -> list[Any]:
        """Gather a value of JSON from each replica on the first replica; empty on the others."""
        replicas = self.topology.peers(self.number, "data")
        if self.coordinates.data > 0:
            send_json(value, replicas[0], self.groups["data"])
            return []
        return [value, *(receive_json(replica, self.groups["data"]) for replica in replicas[1:])]

    def gather_to_first_replica(self, vector: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """Gather a vector from each replica on the first replica; empty on the others.

        Args:
            vector: float [length of this replica's vector], on the CPU.
            lengths: of the vectors of all replicas; used on the first replica only.
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
        """Gather one number from each rank, in rank order."""
        values = torch.zeros(self.topology.world, dtype=torch.float64)
        values[self.number] = value
        if self.topology.world > 1:
            dist.all_reduce(values)
        return [float(number) for number in values]

    def gather_to_first_stage(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gather the tensors of all stages of this pipeline on the first stage; empty on the others.

        Args:
            tensors: on the CPU. If several stages have the same name, the tensor of the first of them is used.
        """
        if self.topology.pipe == 1:
            return tensors
        stages, group = self.topology.peers(self.number, "pipe"), self.groups["pipe"]
        if self.coordinates.pipe > 0:
            send_json(
                [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in tensors.items()], stages[0], group
            )
            for dtype in _dtypes(tensors.values()):  # one message per dtype: latency costs more than the bytes
                dist.send(
                    torch.cat([tensor.reshape(-1) for tensor in tensors.values() if tensor.dtype == dtype]),
                    stages[0],
                    group,
                )
            return {}
        whole = dict(tensors)
        for stage in stages[1:]:
            received = {
                name: torch.empty(shape, dtype=_find_dtype(dtype)) for name, dtype, shape in receive_json(stage, group)
            }
            for dtype in _dtypes(received.values()):
                same_dtype = [tensor for tensor in received.values() if tensor.dtype == dtype]
                sizes = [tensor.numel() for tensor in same_dtype]
                flat = torch.empty(sum(sizes), dtype=dtype)
                dist.recv(flat, stage, group)
                for tensor, piece in zip(same_dtype, flat.split(sizes), strict=True):  # type: ignore[no-untyped-call]
                    tensor.view(-1).copy_(piece)
            for name, tensor in received.items():
                whole.setdefault(name, tensor)
        return whole


def check_interfaces() -> None:
    """
    Raises:
        ValueError: GLOO_SOCKET_IFNAME names a network interface that this machine does not have.
    """
    named = [name for name in os.environ.get("GLOO_SOCKET_IFNAME", "").split(",") if name]
    known = [name for _, name in socket.if_nameindex()]
    missing = [name for name in named if name not in known]
    if missing:
        raise ValueError(
            f"GLOO_SOCKET_IFNAME={','.join(named)}: {socket.gethostname()} has no network interface {missing[0]!r}; "
            f"unset it, or name one of {', '.join(known)}"
        )


def broadcast_json(value: Any, source: int, group: dist.ProcessGroup | None = None) -> Any:
    """Copy a value of JSON from one rank to all ranks of a group. Unlike torch's objects, it cannot carry code.

    Args:
        value: on the source; the other ranks pass anything.
        source: its number.
        group: None: all ranks.
    """
    is_source = dist.get_rank() == source
    data = _to_bytes(value) if is_source else torch.empty(0, dtype=torch.uint8)
    length = torch.tensor([len(data)])
    dist.broadcast(length, source, group)
    data = data if is_source else torch.empty(_check_length(length), dtype=torch.uint8)
    dist.broadcast(data, source, group)
    return _from_bytes(data)


def send_json(value: Any, to: int, group: dist.ProcessGroup) -> None:
    """Send a value of JSON to one rank."""
    data = _to_bytes(value)
    dist.send(torch.tensor([len(data)]), to, group)
    dist.send(data, to, group)


def receive_json(source: int, group: dist.ProcessGroup) -> Any:
    """Receive what `send_json` sends.

    Raises:
        ValueError: it is longer than `MAX_JSON_BYTES`.
    """
    length = torch.empty(1, dtype=torch.int64)
    dist.recv(length, source, group)
    data = torch.empty(_check_length(length), dtype=torch.uint8)
    dist.recv(data, source, group)
    return _from_bytes(data)


def _to_bytes(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _from_bytes(data: Tensor) -> Any:
    return json.loads(data.numpy().tobytes())


def _check_length(length: Tensor) -> int:
    number = int(length)
    if not 0 < number <= MAX_JSON_BYTES:
        raise ValueError(f"a rank announced a message of {number:,} bytes; the limit is {MAX_JSON_BYTES:,}")
    return number


def _find_dtype(name: str) -> torch.dtype:
    """Find the dtype that torch prints as ``torch.float32``."""
    dtype = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"a rank announced a tensor of the unknown dtype {name!r}")
    return dtype


def _dtypes(tensors: Iterable[Tensor]) -> list[torch.dtype]:
    """Distinct dtypes, in order of first use."""
    return list(dict.fromkeys(tensor.dtype for tensor in tensors))
