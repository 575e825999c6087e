"""The plan: what follows from a configuration and its hardware, or every reason why it cannot run. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from experiments.config.rules import topology as topology_rules
from experiments.config.rules.all_rules import find_problems
from experiments.config.rules.base import ConfigView
from experiments.config.rules.engine import read_engine
from experiments.core.errors import PlanError
from experiments.trial.debug_run import shorten
from modules.parallel.topology import Topology


@dataclass(frozen=True)
class Plan:
    """Every derived number, computed once."""

    name: str
    topology: Topology
    """How the ranks are arranged; each rank has one device."""
    batch_size_global: int
    batch_size_per_device: int
    """Examples that one device processes at once."""
    num_accumulation: int
    """Micro-batches of one update on one device."""
    num_train: int | None
    """Examples of the training split; None if they are counted only when the data is read."""
    steps_per_epoch: int | None
    num_steps: int
    """Updates of the whole training."""
    num_evaluations: int
    num_checkpoints: int
    num_shards: int = 1
    """Equal shards of a step's batch."""
    num_servers: int = 0
    """Parameter servers, for asynchronous replicas."""

    @property
    def bubble(self) -> float:
        """Ideal fraction of a step in which a stage is idle. Source: Narayanan et al. 2019, doi:10.1145/3341301.3359646."""
        waits = self.topology.pipe - 1
        return waits / (self.num_accumulation + waits)


def make_plan(config: dict[str, Any]) -> Plan:
    """Compute the plan of a configuration.

    Raises:
        PlanError: lists every problem.
    """
    problems = find_problems(config)
    if topology_rules.is_auto(config):
        problems.append(
            "parallel=auto: no layout is chosen yet; set one, or call experiments.plan.layout_search.search"
        )
    if problems:
        raise PlanError(problems, f"the plan for '{config['name']}'")
    config = shorten(config)
    topology = topology_rules.resolve_topology(ConfigView(config, ()))
    batch_size = config["batch_size_global"]
    num_shards = topology_rules.num_batch_shards(ConfigView(config, ()), topology)
    batch_per_shard = batch_size // num_shards
    per_device = config["batch_size_per_device"] or batch_per_shard // topology_rules.num_micro_batches(
        batch_per_shard, topology.pipe
    )
    num_train = config["data"].get("num_train")
    steps_per_epoch = config.get("overfit_batches") or (num_train // batch_size if num_train else None)
    num_steps = config["max_epochs"] * steps_per_epoch if config["max_steps"] is None else config["max_steps"]
    return Plan(
        name=config["name"],
        topology=topology,
        batch_size_global=batch_size,
        batch_size_per_device=per_device,
        num_accumulation=batch_per_shard // per_device,
        num_train=num_train,
        steps_per_epoch=steps_per_epoch,
        num_steps=num_steps,
        num_evaluations=max(1, -(-num_steps // config["eval_every_steps"])),
        num_checkpoints=max(1, -(-num_steps // config["checkpoint"]["every_steps"])),
        num_shards=num_shards,
        num_servers=read_engine(config).get("num_servers", 0),
    )
