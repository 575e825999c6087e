"""Makes the simulated cluster of an experiment from its plan, before anything has run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from experiments.plan.simulate.cluster import BYTES_PER_VALUE, Cluster
from experiments.plan.simulate.distributions import parse
from modules.parallel.cost_model.step_time import UPDATE_ACCESSES

USUAL_TIMES = "lognormal:0.1"
"""The default without measurements: identical workers would hide the effect of stragglers."""


def make_cluster(config: Mapping[str, Any], times: str | None, trust: Collection[str] = (), **more: Any) -> Cluster:
    """The cluster of an experiment, from the FLOPs, gradients and hardware of its plan.

    Args:
        config: composed; each worker does the work of one replica.
        times: distribution of the computing time of a step, such as ``lognormal:0.2``; the plan gives its mean.
        trust: further packages that `_target_` may name.
        more: fields of the cluster.

    Raises:
        PlanError: the experiment cannot run.
        InputError: the distribution does not exist.
    """
    from experiments.plan.estimate import estimate, make_machine, seconds_per_step
    from experiments.plan.plan import make_plan

    plan, hardware = make_plan(dict(config)), config["hardware"]
    estimated, machine, topology = estimate(config, plan, trust), make_machine(hardware), plan.topology
    if topology.pipe * topology.model == 1:
        alone = replace(estimated, flops_per_step=estimated.flops_per_step // topology.data, cost=None)
        mean_s = seconds_per_step(alone, hardware)
    else:  # a replica has several devices: their communication is part of its step
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
