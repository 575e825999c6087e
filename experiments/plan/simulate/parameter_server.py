"""Simulates workers and parameter servers event by event: synchronous, with backup workers, asynchronous, hybrid.

A worker pulls the parameters, computes, pushes the gradient and waits until the servers have applied it. A server's network
card is shared evenly among all pulls, and among all pushes (fair sharing, not a queue). Its one thread applies gradients in
the order of arrival. All servers have equal parts and get the same pulls and pushes at the same time, so the simulation has one
server, with its part of the work and of every worker's link. On one machine without accelerators, workers and servers share the
cores, and messages are work for the cores.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from functools import partial

import numpy as np

from experiments.plan.simulate.cluster import Cluster
from experiments.plan.simulate.events import Act, Queue, SharedResource, SimulatedClock
from experiments.plan.simulate.result import SimulationResult, staleness

WARMUP = 0.2
"""Fraction of the updates that is not measured, because all workers start at the same time."""
DRAWN_AT_ONCE = 32


@dataclass(frozen=True)
class Rules:
    """The rules of a mode for workers and servers."""

    mode: str
    group_size: int = 1
    """Workers that sum their gradients before one of them pushes the sum."""
    needed: int | None = None
    """Gradients of the newest parameters that form one update; None: each gradient is an update."""
    max_staleness: int | None = None
    """Steps that a worker may be ahead of the slowest; None: no limit. Source: Ho et al. 2013, SSP."""


def simulate(cluster: Cluster, num_workers: int, rules: Rules, num_steps: int, seed: int) -> SimulationResult:
    """Simulate a mode for ``num_steps`` steps per worker on average."""
    return ServerSimulation(cluster, num_workers, rules, seed).run(num_steps)


class ServerSimulation:
    """The state of one simulation. A pusher is a worker, or a group that pushes together."""

    def __init__(self, cluster: Cluster, num_workers: int, rules: Rules, seed: int) -> None:
        self.cluster, self.num_workers, self.rules = cluster, num_workers, rules
        self.num_pushers = num_workers // rules.group_size
        self.rng = np.random.default_rng(seed)
        self.clock = clock = SimulatedClock()
        self.group_s = cluster.exchange_s(rules.group_size) + cluster.exchange_s(rules.group_size, passes=1)
        self.cores = self._cores()
        # On a CPU the servers' work needs cores as well; they run on the first node.
        self.server = Queue(clock, self.cores[0] if self.cores and not cluster.machine.is_accelerator else None)
        message_times, self.is_one_node = cluster.message_times(num_workers), cluster.is_one_node(num_workers)
        self.pull_s = None if message_times is None else message_times.rest_s + message_times.pull_s
        self.push_s = None if message_times is None else message_times.push_s
        link = cluster.server_link(num_workers)
        self.latency_s, self.part_bytes = link.latency_s, cluster.num_bytes / cluster.num_servers
        card = partial(SharedResource, clock, link.bytes_per_s, link.bytes_per_s / cluster.num_servers)
        self.pulls, self.pushes = card(), card()
        self.drawn: list[deque[float]] = [deque() for _ in range(self.num_pushers)]
        self.factors = cluster.factors(num_workers)
        self.clocks = [0] * self.num_pushers
        self.at_clock = Counter({0: self.num_pushers})
        self.slowest = 0
        self.version = self.num_counted = self.num_dropped = 0
        self.waiting: list[int] = []
        """Pushers that wait for other gradients or for the slowest pusher."""
        self.updates_s: list[float] = []
        self.stale: list[int] = []
        self.computed_s = 0.0

    def run(self, num_steps: int) -> SimulationResult:
        """Simulate until ``num_steps`` steps per pusher have counted on average."""
        num_updates = num_steps if self.rules.needed else num_steps * self.num_pushers
        for pusher in range(self.num_pushers):
            self._pull(pusher)
        self.clock.run(lambda: self.version >= num_updates)
        return self._result(int(WARMUP * num_steps) * (num_updates // num_steps))

    def _cores(self) -> list[SharedResource]:
        """The cores of every node as its pushers share them; empty if each pusher has its own."""
        machine = self.cluster.machine
        on_node = min(self.num_workers, machine.devices_per_node)
        if on_node < machine.concurrent_devices or (machine.is_accelerator and on_node <= machine.concurrent_devices):
            return []
        num_nodes = -(-self.num_workers // machine.devices_per_node)
        group_on_node = min(self.rules.group_size, on_node)
        return [SharedResource(self.clock, machine.concurrent_devices / group_on_node, 1.0) for _ in range(num_nodes)]

    def _pull(self, pusher: int) -> None:
        version = self.version
        self._send(pusher, self.pull_s, self.pulls, lambda: self._compute(pusher, version))

    def _send(self, pusher: int, work_s: float | None, card: SharedResource, done: Act) -> None:
        """Send a message, which uses the pusher's cores, and the network if there are several nodes."""
        if work_s is None or not self.is_one_node:
            over = partial(self._move, card, done)
            self._work(pusher, work_s or 0.0, lambda: self.clock.after(self.latency_s, over))
        else:
            self._work(pusher, work_s, done)

    def _work(self, pusher: int, seconds: float, done: Act) -> None:
        """Do work on the pusher's cores, which it may share."""
        if self.cores:
            node = pusher * self.rules.group_size // self.cluster.machine.devices_per_node
            self.cores[node].take(seconds, done)
        else:
            self.clock.after(seconds, done)

    def _move(self, card: SharedResource, done: Act) -> None:
        if self.part_bytes:
            card.take(self.part_bytes, done)
        else:
            done()

    def _compute(self, pusher: int, version: int) -> None:
        begun_s = self.clock.now_s

        def computed() -> None:
            self.computed_s += self.clock.now_s - begun_s
            self.clock.after(self.group_s, lambda: self._send(pusher, self.push_s, self.pushes, pushed))

        def pushed() -> None:
            self.server.take(apply_s, lambda: self._applied(pusher, version))

        apply_s = self.cluster.apply_s / self.cluster.num_servers
        self._work(pusher, self._work_s(pusher), computed)

    def _work_s(self, pusher: int) -> float:
        """Computing time of the slowest worker of a group."""
        drawn = self.drawn[pusher]
        if not drawn:
            size = self.rules.group_size
            factors = self.factors[pusher * size : (pusher + 1) * size]
            drawn.extend((self.cluster.times.draw(self.rng, (DRAWN_AT_ONCE, size)) * factors).max(axis=1))
        return drawn.popleft()

    def _applied(self, pusher: int, version: int) -> None:
        if self.rules.needed is None:
            self._update([version])
            self._step_done(pusher)
        elif version < self.version:  # too late: the gradient is dropped
            self.num_dropped += 1
            self._pull(pusher)
        else:
            self.waiting.append(pusher)
            self.num_counted += 1
            if self.num_counted == self.rules.needed:
                self._update([version] * self.num_counted)
                self.num_counted, free, self.waiting = 0, self.waiting, []
                for other in free:
                    self._pull(other)

    def _update(self, versions: list[int]) -> None:
        self.stale += [self.version - version for version in versions]
        self.version += 1
        self.updates_s.append(self.clock.now_s)

    def _step_done(self, pusher: int) -> None:
        """Start the next step of each pusher that is within ``max_staleness`` steps of the slowest."""
        now = self.clocks[pusher]
        self.clocks[pusher] = now + 1
        self.at_clock[now] -= 1
        self.at_clock[now + 1] += 1
        bound = self.rules.max_staleness
        if bound is None:
            self._pull(pusher)
            return
        if self.at_clock[self.slowest]:  # the slowest has not moved, so waiting pushers still wait
            if self.clocks[pusher] - self.slowest <= bound:
                self._pull(pusher)
            else:
                self.waiting.append(pusher)
            return
        self.waiting.append(pusher)
        while not self.at_clock[self.slowest]:
            self.slowest += 1
        free = [other for other in self.waiting if self.clocks[other] - self.slowest <= bound]
        self.waiting = [other for other in self.waiting if self.clocks[other] - self.slowest > bound]
        for other in free:
            self._pull(other)

    def _result(self, num_warmup: int) -> SimulationResult:
        cluster, rules, end_s = self.cluster, self.rules, self.clock.now_s
        times_s = np.array([0.0, *self.updates_s])[num_warmup:]
        updates_per_s = (len(times_s) - 1) / (times_s[-1] - times_s[0])
        workers_of_update = (rules.needed or 1) * rules.group_size
        examples_per_s = float(updates_per_s * workers_of_update * cluster.batch_size)
        pushed = len(self.stale) + self.num_dropped
        return SimulationResult(
            mode=rules.mode,
            workers=self.num_workers,
            updates_per_s=float(updates_per_s),
            examples_per_s=examples_per_s,
            step_s=float(np.median(np.diff(times_s))),
            speedup=examples_per_s / cluster.alone_per_s,
            waiting_fraction=1 - self.computed_s / (end_s * self.num_pushers),
            server_busy_fraction=self.server.use.busy_s / end_s,
            dropped_fraction=self.num_dropped / pushed,
            **staleness(self.stale[num_warmup * (rules.needed or 1) :]),
        )
