"""The simulated cluster: workers, their machines, and the parameter servers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.plan.simulate.distributions import Seconds, Times
from modules.parallel.cost_model.step_time import CommunicationGroup, Machine, estimate_ring_s, make_group

BYTES_PER_VALUE = 4
"""Of a gradient or parameter in a message: fp32, as DistributedDataParallel and the servers send it."""
OVERLAP_FRACTION = 2 / 3
"""The fraction of computing that overlaps the all-reduce on accelerators: the backward pass."""


@dataclass(frozen=True)
class MessageTimes:
    """CPU time of a worker's messages to servers on the same machine, which go through memory."""

    pull_s: float
    push_s: float
    """Without the time in which the servers apply the gradient."""
    rest_s: float = 0.0
    """To get the next work item."""


@dataclass(frozen=True)
class Cluster:
    """Everything that the speed of a training depends on, except the number of workers and their mode."""

    name: str
    """Its source: a run or a plan."""
    machine: Machine
    times: Times
    """Computing time of one worker's step, with its own core or device."""
    batch_size: int
    """Examples of one worker's step."""
    num_bytes: int
    """Size of all gradients, and of all parameters."""
    apply_s: float
    """Time of all servers together to apply or add one gradient of all parameters."""
    num_servers: int = 1
    num_slow: int = 0
    """Number of workers that are always slow; they are the last ones."""
    slowness: float = 1.0
    """How many times longer slow workers compute."""
    measured_message_times: MessageTimes | None = None

    @property
    def alone_per_s(self) -> float:
        """Examples per second of one worker that never waits."""
        return self.batch_size / self.times.mean_s

    def draw(self, rng: np.random.Generator, num_steps: int, num_workers: int) -> Seconds:
        """Seconds of computing, float64 [num_steps, num_workers]."""
        return self.times.draw(rng, (num_steps, num_workers)) * self.factors(num_workers)

    def factors(self, num_workers: int) -> Seconds:
        """How many times longer each worker computes than a normal one, float64 [num_workers]."""
        return np.where(np.arange(num_workers) < num_workers - self.num_slow, 1.0, self.slowness)

    def exchange_s(self, size: int, passes: int = 2) -> float:
        """Time of a ring of ``size`` neighbouring workers that sums gradients (2 passes) or sends parameters (1 pass)."""
        if size == 1:
            return 0.0
        machine = self.machine
        ring_time_s = estimate_ring_s(self.num_bytes, make_group(size, 1, machine), passes=passes)
        # On CPUs, the cores also handle the messages; fewer cores than workers take proportionally longer.
        shared = min(size, machine.devices_per_node) / machine.concurrent_devices
        return ring_time_s if machine.is_accelerator else ring_time_s * max(1.0, shared)

    def message_times(self, num_workers: int) -> MessageTimes | None:
        """CPU time of messages, measured or from the link of one machine; None if they need no core."""
        machine = self.machine
        if machine.is_accelerator or self.measured_message_times is not None:
            return None if machine.is_accelerator else self.measured_message_times
        if num_workers > machine.devices_per_node:
            return None
        message_s = machine.link_latency_s + self.num_bytes / machine.link_bytes_per_s
        return MessageTimes(message_s, message_s)

    def is_one_node(self, num_workers: int) -> bool:
        """True if all workers and servers are on one node."""
        return num_workers <= self.machine.devices_per_node

    def server_link(self, num_workers: int) -> CommunicationGroup:
        """The link of a worker or server: within the node if there is only one, else its part of the network."""
        machine = self.machine
        if self.is_one_node(num_workers):
            return CommunicationGroup(num_workers, machine.link_bytes_per_s, machine.link_latency_s)
        return CommunicationGroup(num_workers, machine.network_bytes_per_s, machine.network_latency_s)
