"""A cluster on paper: from an experiment and the numbers of its hardware, before anything has run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from experiments.plan.simulate.cluster import BYTES_PER_VALUE, Cluster
from experiments.plan.simulate.distributions import parse
from modules.parallel.cost_model.step_time import UPDATE_ACCESSES

USUAL_TIMES = "lognormal:0.1"
"""Where nothing is measured, a tenth is assumed; of workers that are all alike a simulation would tell little."""


def make_cluster(config: Mapping[str, Any], times: str | None, trust: Collection[str] = (), **more: Any) -> Cluster:
    """What a plan knows of an experiment: its work, its gradients and its hardware.

    Args:
        config: composed; each worker does what one replica of it would do.
        times: the distribution of a step's computing, as one types it; its mean is the plan's.
        trust: packages that may be named.
        more: fields of the cluster.

    Raises:
        PlanError: the experiment cannot run.
        InputError: there is no such distribution.
    """
    from experiments.plan.estimate import estimate, make_machine, seconds_per_step
    from experiments.plan.plan import make_plan

    plan, hardware = make_plan(dict(config)), config["hardware"]
    estimated, machine, topology = estimate(config, plan, trust), make_machine(hardware), plan.topology
    if topology.pipe * topology.model == 1:
        alone = replace(estimated, flops_per_step=estimated.flops_per_step // topology.data, cost=None)
        mean_s = seconds_per_step(alone, hardware)
    else:  # a replica is several devices: what they tell each other is part of its step
        assert estimated.cost is not None
        mean_s = estimated.cost.total_s - estimated.cost.data_s
        machine = replace(machine, devices_per_node=max(1, machine.devices_per_node // topology.pipe // topology.model))
    num_bytes = BYTES_PER_VALUE * estimated.num_parameters
    known = {
        "name": f"the plan of '{plan.name}'",
        "machine": machine,
        "times": parse(times or USUAL_TIMES, mean_s),
        "batch_size": plan.batch_size_per_device * plan.num_accumulation,
        "num_bytes": num_bytes,
        "apply_s": UPDATE_ACCESSES * num_bytes / machine.host_bytes_per_s,
    }
    return Cluster(**{**known, **more})
