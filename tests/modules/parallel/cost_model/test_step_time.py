"""The cost model, compared with manual calculations for machines and models with round numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from modules.parallel.cost_model.layer_counts import LayerCount, ModelCount, Weight
from modules.parallel.cost_model.layout import ParallelLayout
from modules.parallel.cost_model.step_time import (
    GATHER_OPERATIONS,
    REDUCE_OPERATIONS,
    STEP_S,
    CommunicationGroup,
    Machine,
    StepCost,
    estimate_cost,
    estimate_ring_s,
    make_group,
)
from modules.parallel.topology import Topology

MACHINE = Machine(
    flops_per_s=1e12,
    devices_per_node=4,
    concurrent_devices=4,
    link_bytes_per_s=1e9,
    link_latency_s=1e-5,
    network_bytes_per_s=1e8,
    network_latency_s=1e-4,
    operation_s=1e-6,
    host_bytes_per_s=1e10,
    is_accelerator=False,
)
LAYER = LayerCount(
    name="Layer",
    weights=(),
    buffers_bytes=0,
    flops=10**9,  # 1 ms
    num_operations=100,  # 0.1 ms
    outputs_bytes=10**6,  # 1 ms within a node
    saved_bytes=0,
    saves_inputs=False,
    saves_outputs=False,
    is_view=False,
    forward_bytes=0,
    backward_bytes=0,
    exchanged_bytes=2 * 10**6,
    num_exchanges=2,
)
LOSS = replace(LAYER, name="Loss", flops=0, num_operations=0, exchanged_bytes=0, num_exchanges=0)


def make_model(num_layers: int = 4, weight_size: int = 10**6) -> ModelCount:
    layers = tuple(
        replace(LAYER, weights=(Weight(number, weight_size, 4 * weight_size, 8 * weight_size, True),))
        for number in range(num_layers)
    )
    return ModelCount(layers, LOSS, inputs_bytes=0, targets_bytes=0, update_bytes=2.0)


def estimate(layout: ParallelLayout, machine: Machine = MACHINE, **changes: Any) -> StepCost:
    count = make_model(**changes)
    pipe, number = layout.topology.pipe, len(count.layers)
    return estimate_cost(count, [number * stage // pipe for stage in range(pipe + 1)], layout, machine)


def test_an_all_reduce_passes_a_ring_twice() -> None:
    group = CommunicationGroup(4, 1e9, 1e-5)
    assert estimate_ring_s(8e6, group) == pytest.approx(6 * (2e-3 + 1e-5))
    assert estimate_ring_s(8e6, group, passes=1) == pytest.approx(3 * (2e-3 + 1e-5))
    assert estimate_ring_s(8e6, CommunicationGroup(1, 1e9, 1e-5)) == 0


@pytest.mark.parametrize(
    ("size", "stride", "bytes_per_s", "latency_s"),
    [
        (4, 1, 1e9, 1e-5),  # fills a node
        (2, 2, 1e9, 1e-5),
        (8, 1, 4e8, 1e-4),  # all four devices of a node use their network links
        (4, 2, 2e8, 1e-4),
        (2, 4, 1e8, 1e-4),
        (2, 8, 1e8, 1e-4),
    ],
)
def test_groups_over_several_nodes_use_the_network(
    size: int, stride: int, bytes_per_s: float, latency_s: float
) -> None:
    assert make_group(size, stride, MACHINE) == CommunicationGroup(size, bytes_per_s, latency_s)


def test_a_single_process_only_computes() -> None:
    cost = estimate(ParallelLayout("single", num_micro_batches=3))
    assert cost.compute_s == pytest.approx(3 * 4 * 1.1e-3)
    assert cost == StepCost(cost.compute_s, 0, 0, 0, 0, 0, STEP_S)
    assert cost.total_s == pytest.approx(13.2e-3 + STEP_S)


def test_the_bubble_is_one_micro_batch_per_further_stage() -> None:
    cost = estimate(ParallelLayout("pipeline", Topology(pipe=4), 1, num_micro_batches=8))
    sending = 2 * 2 * (1e-3 + 1e-5)  # an inner stage has two neighbours, and sends to and receives from each
    own = REDUCE_OPERATIONS * 1e-6  # DeepSpeed copies the gradient of a stage's weight into the bucket, once per step
    assert cost.compute_s == pytest.approx(8 * 1.1e-3 + own)
    assert cost.point_to_point_s == pytest.approx(8 * sending)
    # The first and the last stage have one neighbour.
    assert cost.bubble_s == pytest.approx(3 * (1.1e-3 + own / 8) + sending + 2 * sending / 2)
    assert cost.data_s == cost.model_s == 0


def test_unequal_stages_wait_for_the_slowest() -> None:
    count = make_model(num_layers=4)
    machine = replace(MACHINE, operation_s=0)
    cost = estimate_cost(
        count, [0, 3, 4], ParallelLayout("pipeline", Topology(pipe=2), 1, num_micro_batches=5), machine
    )
    assert cost.compute_s == pytest.approx(5 * 3e-3)
    assert cost.bubble_s == pytest.approx(1e-3 + 2 * 1.01e-3)


def test_slices_are_reduced_in_every_layer() -> None:
    cost = estimate(ParallelLayout("zero", Topology(model=4), num_micro_batches=2))
    # 8 MB of four layers in 8 messages, each of 6 steps.
    assert cost.model_s == pytest.approx(2 * (6 * 2e-3 + 8 * 6 * 1e-5))


@pytest.mark.parametrize(
    ("engine", "stage", "rounds"),
    [("data", 0, 2), ("zero", 0, 2), ("zero", 1, 3), ("zero", 2, 2 * 5 + 1)],
)
def test_replicas_exchange_their_gradients(engine: Any, stage: int, rounds: int) -> None:
    cost = estimate(ParallelLayout(engine, Topology(data=4), stage, num_micro_batches=5))
    assert cost.data_s == pytest.approx(rounds * 3 * (4e-3 + 1e-5))  # 16 MB, in four parts


def test_zero_3_gathers_large_weights_for_every_pass() -> None:
    layout = ParallelLayout("zero", Topology(data=4), 3, num_micro_batches=5)
    once = 3 * (4e-3 + 1e-5)
    assert estimate(layout).data_s == pytest.approx(4 * 3e-5 + (5 + 1) * once)
    large = 3 * (4e0 + 1e-5)
    assert estimate(layout, weight_size=10**9).data_s == pytest.approx(10 * 4 * 3e-5 + (5 + 10) * large)


def test_communication_of_a_gpu_overlaps_with_computation() -> None:
    machine = replace(MACHINE, is_accelerator=True)
    layout = ParallelLayout("data", Topology(data=4), num_micro_batches=3)
    hidden = 4 * 1e-3 * 2 / 3  # the last backward pass
    assert estimate(layout, machine).data_s == pytest.approx(6 * (4e-3 + 1e-5) - hidden)
    assert estimate(layout, machine, weight_size=10**4).data_s == 0
    assert estimate(layout, weight_size=10**4).data_s > 0


def test_offloading_adds_transfers_to_the_host() -> None:
    offloaded = ParallelLayout("zero", Topology(data=4), 3, "weights_and_optimizer")
    assert estimate(offloaded).data_s == estimate(replace(offloaded, offload="none")).data_s
    assert estimate(offloaded).host_s == pytest.approx(14 * 4e6 / MACHINE.host_bytes_per_s)
    assert estimate(replace(offloaded, offload="none")).host_s == 0


def test_a_gpu_computes_while_its_host_starts_operations() -> None:
    layout = ParallelLayout("single", num_micro_batches=3)
    assert estimate(layout, replace(MACHINE, is_accelerator=True)).compute_s == pytest.approx(3 * 4e-3)
    assert estimate(layout, replace(MACHINE, is_accelerator=True, operation_s=1e-4)).compute_s == pytest.approx(
        3 * 4e-2
    )


def test_zero_has_an_overhead_per_weight() -> None:
    def estimate_overhead(stage: int) -> float:
        layout = ParallelLayout("zero", Topology(data=2), stage, num_micro_batches=5)
        return estimate(layout).compute_s - 5 * 4 * 1.1e-3

    assert [estimate_overhead(stage) for stage in range(4)] == pytest.approx(
        [0, 4e-6 * REDUCE_OPERATIONS, 5 * 4e-6 * REDUCE_OPERATIONS, 5 * 2 * 4e-6 * GATHER_OPERATIONS]
    )


def test_ranks_that_share_cores_wait_for_them() -> None:
    layout, two_cores = ParallelLayout("data", Topology(data=4)), replace(MACHINE, concurrent_devices=2)
    alone = estimate(layout, weight_size=1)
    together = estimate(layout, two_cores, weight_size=1)
    assert together.total_s == pytest.approx(2 * alone.compute_s)
    # Stages that wait in a pipeline leave the cores to the others.
    pipeline = ParallelLayout("pipeline", Topology(pipe=4), 1, num_micro_batches=2)
    assert estimate(pipeline, two_cores) == estimate(pipeline)
    assert estimate(ParallelLayout("single"), replace(MACHINE, concurrent_devices=1)) == estimate(
        ParallelLayout("single")
    )
