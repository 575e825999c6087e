"""What a simulation is of: workers, what they run on, and the servers that hold the parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.plan.simulate.distributions import Seconds, Times
from modules.parallel.cost_model.step_time import CommunicationGroup, Machine, estimate_ring_s, make_group

BYTES_PER_VALUE = 4
"""Of a gradient or a parameter on its way: fp32, as DistributedDataParallel and the servers send it."""
OVERLAP_FRACTION = 2 / 3
"""Of computing, that goes on while gradients are summed: the backward pass, where devices and links work apart."""


@dataclass(frozen=True)
class MessageTimes:
    """What it takes of a core that a worker speaks with servers on its own machine, which pass messages through memory."""

    pull_s: float
    push_s: float
    """Besides what the servers do with the gradient."""
    rest_s: float = 0.0
    """To be handed the next piece of work."""


@dataclass(frozen=True)
class Cluster:
    """Everything that the times of a training depend on, but for how many workers there are and how they work together."""

    name: str
    """What it was taken from."""
    machine: Machine
    times: Times
    """Computing of one worker's step, with a core or device of its own."""
    batch_size: int
    """Examples of one worker's step."""
    num_bytes: int
    """Of all gradients, and of all parameters."""
    apply_s: float
    """What it takes servers together to apply, or add up, one gradient of all parameters."""
    num_servers: int = 1
    num_slow: int = 0
    """Workers, the last ones, that are slow all the time."""
    slowness: float = 1.0
    """How many times longer they compute."""
    measured_message_times: MessageTimes | None = None

    @property
    def alone_per_s(self) -> float:
        """Examples a second of one worker that waits for nobody."""
        return self.batch_size / self.times.mean_s

    def draw(self, rng: np.random.Generator, num_steps: int, num_workers: int) -> Seconds:
        """Seconds of computing, float64 [num_steps, num_workers]."""
        return self.times.draw(rng, (num_steps, num_workers)) * self.factors(num_workers)

    def factors(self, num_workers: int) -> Seconds:
        """How many times longer each worker computes than most, float64 [num_workers]."""
        return np.where(np.arange(num_workers) < num_workers - self.num_slow, 1.0, self.slowness)

    def exchange_s(self, size: int, passes: int = 2) -> float:
        """Of a ring of so many neighbouring workers, that sums up gradients (2 passes) or hands parameters on (1)."""
        if size == 1:
            return 0.0
        machine = self.machine
        ring_time_s = estimate_ring_s(self.num_bytes, make_group(size, 1, machine), passes=passes)
        # Where devices are cores, they pass the messages on as well; fewer cores than workers take as much longer.
        shared = min(size, machine.devices_per_node) / machine.concurrent_devices
        return ring_time_s if machine.is_accelerator else ring_time_s * max(1.0, shared)

    def message_times(self, num_workers: int) -> MessageTimes | None:
        """What messages take of the cores: as measured, or as the link of one machine; None where devices do not need them."""
        machine = self.machine
        if machine.is_accelerator or self.measured_message_times is not None:
            return None if machine.is_accelerator else self.measured_message_times
        if num_workers > machine.devices_per_node:
            return None
        message_s = machine.link_latency_s + self.num_bytes / machine.link_bytes_per_s
        return MessageTimes(message_s, message_s)

    def is_one_node(self, num_workers: int) -> bool:
        """Whether workers and servers are all on one."""
        return num_workers <= self.machine.devices_per_node

    def server_link(self, num_workers: int) -> CommunicationGroup:
        """The link of a worker or a server: within the node where all are on one, else its part of the network."""
        machine = self.machine
        if self.is_one_node(num_workers):
            return CommunicationGroup(num_workers, machine.link_bytes_per_s, machine.link_latency_s)
        return CommunicationGroup(num_workers, machine.network_bytes_per_s, machine.network_latency_s)
