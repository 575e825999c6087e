"""The ways in which workers train one model together, by name."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.plan.simulate import all_reduce
from experiments.plan.simulate import parameter_server as parameter_server
from experiments.plan.simulate.cluster import Cluster
from experiments.plan.simulate.result import SimulationResult

MODES = {
    "sync": "gradients summed over a ring",
    "sync_servers": "gradients summed by the servers, all waited for",
    "backup": "the same, the last few not waited for",
    "async": "every gradient applied as it comes",
    "hybrid": "groups that sum their gradients, applied as they come",
}
"""What each does, as a table tells it."""
MOST_PUSHES, MOST_STEPS, LEAST_STEPS = 10_000, 1_000, 30
DRAWN_FOR_ONE = 10
"""Steps that are simulated without a queue, for one with: they cost so much less."""


@dataclass(frozen=True)
class Choices:
    """What a mode leaves open."""

    num_backup: int | None = None
    """Workers that are not waited for; None: one in twenty, at least one."""
    group_size: int | None = None
    """Workers of a synchronous group; None: those of a node, or about the square root of all where a node has one."""
    max_staleness: int | None = None
    seed: int = 0
    num_steps: int | None = None
    """Of each worker; None: as many as give a steady mean in a few seconds."""

    def choose_num_backup(self, num_workers: int) -> int:
        """How many of the workers are not waited for; at least one is."""
        wanted = max(1, num_workers // 20) if self.num_backup is None else self.num_backup
        return min(wanted, num_workers - 1)

    def choose_group_size(self, num_workers: int, devices_per_node: int) -> int:
        """Workers of a group: of its divisors the one nearest below what is asked, so that all groups are alike."""
        usual = devices_per_node if 1 < devices_per_node < num_workers else round(num_workers**0.5)
        most = min(num_workers, usual if self.group_size is None else self.group_size)
        return next(size for size in range(most, 0, -1) if num_workers % size == 0)

    def choose_num_steps(self, num_workers: int) -> int:
        """How long to simulate."""
        return self.num_steps or max(LEAST_STEPS, min(MOST_STEPS, MOST_PUSHES // num_workers))


def simulate(cluster: Cluster, mode: str, num_workers: int, choices: Choices | None = None) -> SimulationResult:
    """One mode at one number of workers; the same arguments give the same result.

    Args:
        cluster: what trains.
        mode: of `MODES`.
        num_workers: all of them, backup workers among them.
        choices: what the mode leaves open.
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
