"""Clusters with round numbers, for tests of the simulator."""

from __future__ import annotations

from typing import Any

from experiments.plan.simulate.cluster import Cluster
from experiments.plan.simulate.distributions import ConstantTime, Times
from modules.parallel.cost_model.step_time import Machine


def make_machine(**changed: Any) -> Machine:
    """One worker per node; communication takes no time unless you set a latency."""
    defaults: dict[str, Any] = {
        "flops_per_s": 1e12, "devices_per_node": 1, "concurrent_devices": 1.0, "link_bytes_per_s": 1e9,
        "link_latency_s": 0.0, "network_bytes_per_s": 1e9, "network_latency_s": 0.0, "operation_s": 0.0,
        "host_bytes_per_s": 1e9, "is_accelerator": True,
    }  # fmt: skip
    return Machine(**{**defaults, **changed})


def make_cluster(times: Times | None = None, on: Machine | None = None, **changed: Any) -> Cluster:
    """Workers that compute 10 examples per second and have no gradients to send."""
    defaults: dict[str, Any] = {"batch_size": 10, "num_bytes": 0, "apply_s": 0.0}
    return Cluster(
        name="a test", machine=on or make_machine(), times=times or ConstantTime(1.0), **{**defaults, **changed}
    )
