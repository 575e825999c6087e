"""Simulates synchronous replicas with a ring all-reduce: there is no queue, so all steps are drawn at once."""

from __future__ import annotations

import numpy as np

from experiments.plan.simulate.cluster import OVERLAP_FRACTION, Cluster
from experiments.plan.simulate.distributions import Seconds
from experiments.plan.simulate.result import SimulationResult


def simulate(cluster: Cluster, num_workers: int, num_steps: int, seed: int) -> SimulationResult:
    """Simulate steps that start when the slowest worker has finished and the gradients are summed."""
    machine = cluster.machine
    work_s = cluster.draw(np.random.default_rng(seed), num_steps, num_workers)
    nodes = np.split(work_s, range(machine.devices_per_node, num_workers, machine.devices_per_node), axis=1)
    done_s = np.concatenate([done(node, machine.concurrent_devices) for node in nodes], axis=1)
    slowest_s = done_s.max(axis=1)
    exchange_s = cluster.exchange_s(num_workers)
    steps_s = slowest_s + (
        np.maximum(0.0, exchange_s - OVERLAP_FRACTION * slowest_s) if machine.is_accelerator else exchange_s
    )
    updates_per_s = 1 / float(np.mean(steps_s))
    examples_per_s = updates_per_s * num_workers * cluster.batch_size
    return SimulationResult(
        mode="sync",
        workers=num_workers,
        updates_per_s=updates_per_s,
        examples_per_s=examples_per_s,
        step_s=float(np.median(steps_s)),
        speedup=examples_per_s / cluster.alone_per_s,
        waiting_fraction=float(1 - np.mean(done_s) / np.mean(steps_s)),
        stale_fractions=(1.0,),
    )


def done(work_s: Seconds, concurrent_devices: float) -> Seconds:
    """When each worker of a node finishes, in ascending order, float64 [num_steps, workers].

    All start together and share the cores evenly; no worker uses more than one core.

    Args:
        work_s: the time of each with its own core, float64 [num_steps, workers].
        concurrent_devices: cores.
    """
    ordered = np.sort(work_s, axis=1)
    pieces = np.diff(ordered, axis=1, prepend=0.0)  # one worker fewer is busy in each next piece
    num_busy = np.arange(work_s.shape[1], 0, -1)
    return np.cumsum(pieces * np.maximum(1.0, num_busy / concurrent_devices), axis=1)
