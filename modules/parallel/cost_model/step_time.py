"""How long a step of a layout takes, from the counts of its layers and the numbers of a machine. Imports no torch.

Sources: pipelines Narayanan et al. 2021, arXiv:2104.04473, section 2.2; rings Patarasuk and Yuan 2009,
doi:10.1016/j.jpdc.2008.09.002; what ZeRO sends Rajbhandari et al. 2020, arXiv:1910.02054, section 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from modules.parallel.cost_model.layer_counts import ModelCount
from modules.parallel.cost_model.layout import ParallelLayout
from modules.parallel.cost_model.memory import MAX_GATHERED_SIZE

STEP_S = 0.5e-3  # what a step of a tiny model takes, whatever it computes (2026-11-23: mlp on digits 0.6 ms)

OFFLOAD_TRANSFERS, UPDATE_ACCESSES = 2, 12
"""How often an offloaded number crosses over in a step (gradient there, weight back), and is read or written by its update."""

GATHER_OPERATIONS, REDUCE_OPERATIONS = 120, 15
"""What it costs DeepSpeed to fetch and release a weight for a pass (ZeRO 3), or to put its gradient with the others (1, 2), in
operations of torch's (2026-11-24, 0.6 and 0.08 ms on a CPU of which one operation takes 5 us)."""


@dataclass(frozen=True)
class Machine:
    """The numbers of the hardware that a step's time depends on."""

    flops_per_s: float
    """What one device reaches in training."""
    devices_per_node: int
    concurrent_devices: float
    """Devices of a node that can compute at the same time: fewer where processes share its cores."""
    link_bytes_per_s: float
    """From one device to another of its node, each way."""
    link_latency_s: float
    network_bytes_per_s: float
    """From one device to one of another node, each way; every device has so much."""
    network_latency_s: float
    operation_s: float
    """To start one operation of torch's."""
    host_bytes_per_s: float
    """Between a device and the host's memory, and of what the host's cores update there."""
    is_accelerator: bool
    """The device computes by itself while its host starts operations and its links exchange; a CPU's cores do all of it."""


@dataclass(frozen=True)
class StepCost:
    """Seconds of one step, part by part."""

    compute_s: float
    """Of the slowest stage, with the waiting for cores that other ranks use."""
    bubble_s: float
    """In which the slowest stage waits for the pipeline to fill and to drain."""
    model_s: float
    """Sums over the ranks that share layers."""
    point_to_point_s: float
    """Activations and their gradients between stages."""
    data_s: float
    """Gradients, and what ZeRO gathers, between replicas; what hides behind computing left out."""
    host_s: float
    """Moving and updating what lies in the host's memory."""
    fixed_s: float
    """Whatever is computed."""

    @property
    def total_s(self) -> float:
        parts = (self.compute_s, self.bubble_s, self.model_s, self.point_to_point_s, self.data_s, self.host_s)
        return sum(parts) + self.fixed_s


def estimate_cost(count: ModelCount, bounds: Sequence[int], layout: ParallelLayout, machine: Machine) -> StepCost:
    """Time of a step.

    Args:
        count: of one micro-batch.
        bounds: the first layer of every stage, and the number of layers.
        layout: how the training is shared out.
        machine: what it runs on.
    """
    stages = [_stage(count, first, last, layout, machine) for first, last in pairwise(bounds)]
    slowest = max(stages, key=sum)
    computing, exchanging, sending = (layout.num_micro_batches * part for part in slowest)
    found = StepCost(
        compute_s=computing,
        bubble_s=sum(map(sum, stages)) - sum(slowest),
        model_s=exchanging,
        point_to_point_s=sending,
        data_s=max(_data(count, first, last, layout, machine, computing) for first, last in pairwise(bounds)),
        host_s=_host(count, layout, machine),
        fixed_s=STEP_S,
    )
    return replace(found, compute_s=computing + _waiting_for_cores(stages, layout, machine, found.total_s))


def _waiting_for_cores(
    stages: Sequence[tuple[float, float, float]], layout: ParallelLayout, machine: Machine, step_s: float
) -> float:
    """Seconds by which a step takes longer than every rank would need by itself, where a node has fewer cores than ranks."""
    topology = layout.topology
    busy = sum(computing + exchanging for computing, exchanging, _ in stages) * layout.num_micro_batches
    busy *= topology.data * topology.model
    nodes = -(-topology.world // machine.devices_per_node)
    return max(0.0, busy / nodes / machine.concurrent_devices - step_s)


def estimate_ring_s(size_bytes: float, group: CommunicationGroup, *, passes: int = 2) -> float:
    """Time of an all-reduce over a ring, which goes round twice: to add up, and to tell everyone.

    Args:
        size_bytes: what every rank has.
        group: who exchanges.
        passes: 1 for gathering, or for adding up what each rank then has a part of.
    """
    steps = passes * (group.size - 1)
    return steps * (size_bytes / group.size / group.bytes_per_s + group.latency_s)


@dataclass(frozen=True)
class CommunicationGroup:
    """Ranks along one axis, as messages see them."""

    size: int
    bytes_per_s: float
    latency_s: float


def make_group(size: int, stride: int, machine: Machine) -> CommunicationGroup:
    """The ranks along an axis.

    Args:
        size: how many they are.
        stride: how far apart their numbers are: the product of the axes inside.
        machine: nodes are filled one after the other.
    """
    if size * stride <= machine.devices_per_node:
        return CommunicationGroup(size, machine.link_bytes_per_s, machine.link_latency_s)
    members_of_node = max(1, machine.devices_per_node // stride)
    # Every device of a node that belongs to the group brings its own way out.
    outwards = min(machine.link_bytes_per_s, members_of_node * machine.network_bytes_per_s)
    return CommunicationGroup(size, outwards, machine.network_latency_s)


def _stage(
    count: ModelCount, first: int, last: int, layout: ParallelLayout, machine: Machine
) -> tuple[float, float, float]:
    """Seconds of one micro-batch on a stage: computing, sums between slices, sending and receiving."""
    topology = layout.topology
    layers = [*count.layers[first:last], *([count.loss] if last == len(count.layers) else [])]
    computing = sum(layer.flops for layer in layers) / machine.flops_per_s
    num_weights = sum(weight.is_trained for weight in count.weights(first, last))
    operations = sum(layer.num_operations for layer in layers) + _own_operations(layout) * num_weights
    starting = operations * machine.operation_s
    computing = max(computing, starting) if machine.is_accelerator else computing + starting
    exchanging = 0.0
    if topology.model > 1:
        group = make_group(topology.model, 1, machine)
        number = sum(layer.num_exchanges for layer in layers)
        size = sum(layer.exchanged_bytes for layer in layers)
        exchanging = estimate_ring_s(size, group) + max(0, number - 1) * estimate_ring_s(0, group)
    sending = 0.0
    if topology.pipe > 1:
        way = make_group(topology.pipe, topology.data * topology.model, machine)
        borders = [count.layers[border - 1].outputs_bytes for border in (first, last) if 0 < border < len(count.layers)]
        sending = sum(2 * (size / way.bytes_per_s + way.latency_s) for size in borders)  # there, and its gradient back
    return computing, exchanging, sending


def _own_operations(layout: ParallelLayout) -> float:
    """What DeepSpeed does of its own for every weight and micro-batch, in operations of torch's."""
    if layout.stage == 3:
        return 2 * GATHER_OPERATIONS
    return REDUCE_OPERATIONS / (1 if layout.stage == 2 else layout.num_micro_batches) if layout.stage else 0


def _data(
    count: ModelCount, first: int, last: int, layout: ParallelLayout, machine: Machine, computing: float
) -> float:
    """Seconds that replicas exchange without computing."""
    replicas = layout.topology.data
    if replicas == 1:
        return 0.0
    weights = [weight for weight in count.weights(first, last) if weight.is_trained]
    size, number = sum(weight.bytes for weight in weights), sum(weight.size for weight in weights)
    group = make_group(replicas, layout.topology.model, machine)
    once, twice = estimate_ring_s(size, group, passes=1), estimate_ring_s(size, group)
    micro_batches = layout.num_micro_batches
    if layout.stage == 0:
        hidden = computing / micro_batches * 2 / 3 if layout.engine == "data" else 0.0  # the last backward pass
        return _left(twice, hidden, machine)
    if layout.stage == 1:
        return twice + once  # DeepSpeed 0.19.8 sums whole buckets, then gathers the weights
    if layout.stage == 2:
        return micro_batches * twice + once
    gatherings = 2 * micro_batches if number > MAX_GATHERED_SIZE else 1  # for each pass, or once for all
    asking = gatherings * len(weights) * estimate_ring_s(0, group, passes=1)  # layer by layer
    return asking + micro_batches * once + _left(gatherings * once, computing, machine)


def _host(count: ModelCount, layout: ParallelLayout, machine: Machine) -> float:
    """Seconds in which a replica's part of gradients and weights is moved, and updated where it lies."""
    if layout.offload == "none":
        return 0.0
    size = sum(weight.bytes for weight in count.weights(0, len(count.layers)) if weight.is_trained)
    return (OFFLOAD_TRANSFERS + UPDATE_ACCESSES) * size / layout.topology.data / machine.host_bytes_per_s


def _left(exchanging: float, computing: float, machine: Machine) -> float:
    """What of an exchange is still to be waited for when the computing beside it is done."""
    return max(0.0, exchanging - computing) if machine.is_accelerator else exchanging
