"""Estimates the step time of a layout from the counts of its layers and the numbers of a machine. Does not import torch.

Sources: pipelines: Narayanan et al. 2021, arXiv:2104.04473, section 2.2; ring all-reduce: Patarasuk and Yuan 2009,
doi:10.1016/j.jpdc.2008.09.002; communication of ZeRO: Rajbhandari et al. 2020, arXiv:1910.02054, section 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from modules.parallel.cost_model.layer_counts import ModelCount
from modules.parallel.cost_model.layout import ParallelLayout
from modules.parallel.cost_model.memory import MAX_GATHERED_SIZE

STEP_S = 0.5e-3  # overhead of a step (2026-11-23: mlp on digits takes 0.6 ms)

OFFLOAD_TRANSFERS, UPDATE_ACCESSES = 2, 12
"""Transfers of an offloaded element per step (gradient to the host, weight back), and its memory accesses in an update."""

GATHER_OPERATIONS, REDUCE_OPERATIONS = 120, 15
"""Overhead of DeepSpeed per weight, in torch operations: to gather and release it for a pass (ZeRO 3), or to copy its gradient
into the bucket (ZeRO 1 and 2). Measured 2026-11-24: 0.6 and 0.08 ms on a CPU where one operation takes 5 us."""


@dataclass(frozen=True)
class Machine:
    """The hardware numbers that the step time depends on."""

    flops_per_s: float
    """Of one device, reached in training."""
    devices_per_node: int
    concurrent_devices: float
    """Devices of a node that can compute at the same time; fewer if processes share its cores."""
    link_bytes_per_s: float
    """Between two devices of a node, in each direction."""
    link_latency_s: float
    network_bytes_per_s: float
    """Between devices of two nodes, in each direction, per device."""
    network_latency_s: float
    operation_s: float
    """To start one torch operation."""
    host_bytes_per_s: float
    """Between a device and host memory; also of updates by the host's cores."""
    is_accelerator: bool
    """The device computes while its host starts operations and its links communicate; the cores of a CPU do all of this."""


@dataclass(frozen=True)
class StepCost:
    """Seconds of one step, by part."""

    compute_s: float
    """Of the slowest stage, including the wait for cores that other ranks use."""
    bubble_s: float
    """Time that the slowest stage waits while the pipeline fills and drains."""
    model_s: float
    """All-reduces over the ranks that split layers."""
    point_to_point_s: float
    """Activations and their gradients between stages."""
    data_s: float
    """Gradients and ZeRO's gathered weights between replicas, without what overlaps with computation."""
    host_s: float
    """Transfers and updates of offloaded tensors."""
    fixed_s: float
    """Overhead of every step."""

    @property
    def total_s(self) -> float:
        parts = (self.compute_s, self.bubble_s, self.model_s, self.point_to_point_s, self.data_s, self.host_s)
        return sum(parts) + self.fixed_s


def estimate_cost(count: ModelCount, bounds: Sequence[int], layout: ParallelLayout, machine: Machine) -> StepCost:
    """Estimate the time of a step.

    Args:
        count: counts of one micro-batch.
        bounds: the first layer of each stage, followed by the number of layers.
        layout: how the training is distributed.
        machine: the hardware.
    """
    stages = [_estimate_stage(count, first, last, layout, machine) for first, last in pairwise(bounds)]
    slowest = max(stages, key=sum)
    compute_s, model_s, sending_s = (layout.num_micro_batches * part for part in slowest)
    cost = StepCost(
        compute_s=compute_s,
        bubble_s=sum(map(sum, stages)) - sum(slowest),
        model_s=model_s,
        point_to_point_s=sending_s,
        data_s=max(
            _estimate_data_s(count, first, last, layout, machine, compute_s) for first, last in pairwise(bounds)
        ),
        host_s=_estimate_host_s(count, layout, machine),
        fixed_s=STEP_S,
    )
    return replace(cost, compute_s=compute_s + _estimate_core_wait_s(stages, layout, machine, cost.total_s))


def _estimate_core_wait_s(
    stages: Sequence[tuple[float, float, float]], layout: ParallelLayout, machine: Machine, step_s: float
) -> float:
    """Extra seconds of a step if a node has fewer cores than ranks."""
    topology = layout.topology
    busy = sum(compute_s + model_s for compute_s, model_s, _ in stages) * layout.num_micro_batches
    busy *= topology.data * topology.model
    nodes = -(-topology.world // machine.devices_per_node)
    return max(0.0, busy / nodes / machine.concurrent_devices - step_s)


def estimate_ring_s(size_bytes: float, group: CommunicationGroup, *, passes: int = 2) -> float:
    """Estimate the time of an all-reduce over a ring: a reduce-scatter, then an all-gather.

    Args:
        size_bytes: bytes on each rank.
        group: the ranks.
        passes: 1 for only one of the two, a reduce-scatter or an all-gather.
    """
    steps = passes * (group.size - 1)
    return steps * (size_bytes / group.size / group.bytes_per_s + group.latency_s)


@dataclass(frozen=True)
class CommunicationGroup:
    """Size, bandwidth and latency of a group of ranks along one axis."""

    size: int
    bytes_per_s: float
    latency_s: float


def make_group(size: int, stride: int, machine: Machine) -> CommunicationGroup:
    """Make the group of ranks along an axis.

    Args:
        size: number of ranks.
        stride: difference between neighbouring ranks: the product of the faster axes.
        machine: its nodes are filled one after the other.
    """
    if size * stride <= machine.devices_per_node:
        return CommunicationGroup(size, machine.link_bytes_per_s, machine.link_latency_s)
    members_per_node = max(1, machine.devices_per_node // stride)
    # Every device of the group has its own network link.
    bytes_per_s = min(machine.link_bytes_per_s, members_per_node * machine.network_bytes_per_s)
    return CommunicationGroup(size, bytes_per_s, machine.network_latency_s)


def _estimate_stage(
    count: ModelCount, first: int, last: int, layout: ParallelLayout, machine: Machine
) -> tuple[float, float, float]:
    """Seconds of one micro-batch on a stage: computation, all-reduces between slices, transfers between stages."""
    topology = layout.topology
    layers = [*count.layers[first:last], *([count.loss] if last == len(count.layers) else [])]
    compute_s = sum(layer.flops for layer in layers) / machine.flops_per_s
    num_weights = sum(weight.is_trained for weight in count.weights(first, last))
    operations = sum(layer.num_operations for layer in layers) + _engine_operations(layout) * num_weights
    start_s = operations * machine.operation_s
    compute_s = max(compute_s, start_s) if machine.is_accelerator else compute_s + start_s
    model_s = 0.0
    if topology.model > 1:
        group = make_group(topology.model, 1, machine)
        number = sum(layer.num_exchanges for layer in layers)
        size = sum(layer.exchanged_bytes for layer in layers)
        model_s = estimate_ring_s(size, group) + max(0, number - 1) * estimate_ring_s(0, group)
    sending_s = 0.0
    if topology.pipe > 1:
        group = make_group(topology.pipe, topology.data * topology.model, machine)
        sizes = [count.layers[bound - 1].outputs_bytes for bound in (first, last) if 0 < bound < len(count.layers)]
        sending_s = sum(
            2 * (size / group.bytes_per_s + group.latency_s) for size in sizes
        )  # outputs and their gradients
    return compute_s, model_s, sending_s


def _engine_operations(layout: ParallelLayout) -> float:
    """Overhead of DeepSpeed per weight and micro-batch, in torch operations."""
    if layout.stage == 3:
        return 2 * GATHER_OPERATIONS
    return REDUCE_OPERATIONS / (1 if layout.stage == 2 else layout.num_micro_batches) if layout.stage else 0


def _estimate_data_s(
    count: ModelCount, first: int, last: int, layout: ParallelLayout, machine: Machine, compute_s: float
) -> float:
    """Seconds that replicas communicate without computing."""
    replicas = layout.topology.data
    if replicas == 1:
        return 0.0
    weights = [weight for weight in count.weights(first, last) if weight.is_trained]
    size, number = sum(weight.bytes for weight in weights), sum(weight.size for weight in weights)
    group = make_group(replicas, layout.topology.model, machine)
    once, twice = estimate_ring_s(size, group, passes=1), estimate_ring_s(size, group)
    micro_batches = layout.num_micro_batches
    if layout.stage == 0:
        hidden_s = compute_s / micro_batches * 2 / 3 if layout.engine == "data" else 0.0  # the last backward pass
        return _subtract_overlap(twice, hidden_s, machine)
    if layout.stage == 1:
        return twice + once  # DeepSpeed 0.19.8 all-reduces whole buckets, then gathers the weights
    if layout.stage == 2:
        return micro_batches * twice + once
    num_gathers = 2 * micro_batches if number > MAX_GATHERED_SIZE else 1  # for each pass, or once per step
    latency_s = num_gathers * len(weights) * estimate_ring_s(0, group, passes=1)  # layer by layer
    return latency_s + micro_batches * once + _subtract_overlap(num_gathers * once, compute_s, machine)


def _estimate_host_s(count: ModelCount, layout: ParallelLayout, machine: Machine) -> float:
    """Seconds to transfer a replica's part of gradients and weights, and to update it in host memory."""
    if layout.offload == "none":
        return 0.0
    size = sum(weight.bytes for weight in count.weights(0, len(count.layers)) if weight.is_trained)
    return (OFFLOAD_TRANSFERS + UPDATE_ACCESSES) * size / layout.topology.data / machine.host_bytes_per_s


def _subtract_overlap(communication_s: float, compute_s: float, machine: Machine) -> float:
    """Communication time that does not overlap with computation."""
    return max(0.0, communication_s - compute_s) if machine.is_accelerator else communication_s
