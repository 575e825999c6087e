"""The modes of data-parallel training that can be simulated."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.plan.simulate import all_reduce
from experiments.plan.simulate import parameter_server as parameter_server
from experiments.plan.simulate.cluster import Cluster
from experiments.plan.simulate.result import SimulationResult

MODES = {
    "sync": "ring all-reduce of gradients",
    "sync_servers": "servers wait for all gradients and sum them",
    "backup": "the same, without waiting for the last few",
    "async": "servers apply every gradient when it arrives",
    "hybrid": "groups sum their gradients, servers apply each sum when it arrives",
}
"""The explanation of each mode in tables."""
MOST_PUSHES, MOST_STEPS, LEAST_STEPS = 10_000, 1_000, 30
DRAWN_FOR_ONE = 10
"""Steps simulated without a queue per step with one, because they are much cheaper."""


@dataclass(frozen=True)
class Choices:
    """The options of a mode."""

    num_backup: int | None = None
    """Backup workers; None: one in twenty, at least one."""
    group_size: int | None = None
    """Workers of a synchronous group; None: those of a node, or about the square root of all if a node has one."""
    max_staleness: int | None = None
    seed: int = 0
    num_steps: int | None = None
    """Per worker; None: enough for a stable mean in a few seconds."""

    def choose_num_backup(self, num_workers: int) -> int:
        """The number of backup workers; at least one worker is not one."""
        wanted = max(1, num_workers // 20) if self.num_backup is None else self.num_backup
        return min(wanted, num_workers - 1)

    def choose_group_size(self, num_workers: int, devices_per_node: int) -> int:
        """Workers per group: the largest divisor up to the requested size, so that all groups are equal."""
        usual = devices_per_node if 1 < devices_per_node < num_workers else round(num_workers**0.5)
        most = min(num_workers, usual if self.group_size is None else self.group_size)
        return next(size for size in range(most, 0, -1) if num_workers % size == 0)

    def choose_num_steps(self, num_workers: int) -> int:
        """The number of steps to simulate."""
        return self.num_steps or max(LEAST_STEPS, min(MOST_STEPS, MOST_PUSHES // num_workers))


def simulate(cluster: Cluster, mode: str, num_workers: int, choices: Choices | None = None) -> SimulationResult:
    """Simulate one mode with one number of workers; the same arguments give the same result.

    Args:
        cluster: the workers, machines and servers.
        mode: of `MODES`.
        num_workers: all workers, including backup workers.
        choices: the options of the mode.
    """
    choices = choices or Choices()
    num_steps = choices.choose_num_steps(num_workers)
    if mode == "sync":
        return all_reduce.simulate(cluster, num_workers, DRAWN_FOR_ONE * num_steps, choices.seed)
    if mode == "sync_servers" or (mode == "async" and choices.max_staleness == 0):
        rules = parameter_server.Rules(mode, needed=num_workers)
    elif mode == "backup":
        rules = parameter_server.Rules(mode, needed=num_workers - choices.choose_num_backup(num_workers))
    elif mode == "hybrid":
        size = choices.choose_group_size(num_workers, cluster.machine.devices_per_node)
        rules = parameter_server.Rules(mode, group_size=size, max_staleness=choices.max_staleness)
    else:
        rules = parameter_server.Rules(mode, max_staleness=choices.max_staleness)
    return parameter_server.simulate(cluster, num_workers, rules, num_steps, choices.seed)
