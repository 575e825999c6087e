"""A replica of asynchronous training: it asks for work, pulls weights, computes a gradient and pushes it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor
from torch._C._distributed_c10d import Store
from torch.nn.utils import clip_grad_norm_

from modules.parallel.asynchronous.flat_parameters import FlatParameters
from modules.parallel.asynchronous.replica_group import ORDER, ReplicaGroup
from modules.parallel.asynchronous.server_connections import ServerConnections
from modules.parallel.asynchronous.transport import Closed, Connection, Listener, PeerLost
from modules.parallel.base import Fetch
from modules.parallel.single import Single

DOOR = "coordinator"
HEADER = 64
"""Numbers of a header to and from the coordinator."""
METRICS_AT = 16


class Message(IntEnum):
    """What replicas and coordinator say to each other."""

    HELLO = 1
    ASK = 2
    CHUNK = 3
    FLUSH = 4
    """Push what you have: nothing else is to be done now."""
    END = 5


@dataclass(frozen=True)
class ReplicaSettings:
    """How a replica works."""

    push_every_steps: int
    pull_every_steps: int
    chunks_per_round: int
    delay_s: float
    """Slept with every chunk, for tests and figures of what a slow machine does."""


@dataclass
class WorkReport:
    """What a replica tells with its next question."""

    num_chunks: int = 0
    accepted: bool = True
    compute_s: float = 0.0
    push_s: float = 0.0
    pull_s: float = 0.0


class Replica:
    """One of them, or a member of a group that computes one gradient together."""

    def __init__(
        self, store: Store, group: ReplicaGroup, pusher: int, num_servers: int, single: Single, flat: FlatParameters,
        habits: ReplicaSettings, fetch: Fetch, told: Callable[[], str | None],
    ) -> None:  # fmt: skip
        """
        Args:
            store: of the meeting.
            group: of which this is a member.
            pusher: number of the group among all.
            num_servers: of the weights.
            single: the model, and how a gradient of it is computed.
            flat: of its model.
            habits: how it works.
            fetch: gives its data.
            told: why the training should stop.
        """
        self._store, self._group, self._pusher, self._single, self._flat = store, group, pusher, single, flat
        self._habits, self._fetch, self._told, self._num_servers = habits, fetch, told, num_servers
        self._weights = flat.collect(torch.empty(flat.size, dtype=flat.dtype))
        self._gradient = torch.zeros_like(self._weights)
        self._own = torch.zeros_like(self._weights) if habits.push_every_steps > 1 else self._gradient
        self._present = torch.zeros(len(flat), dtype=torch.float64)
        self._buffers = torch.empty(flat.num_buffers, dtype=torch.float64)
        self._metrics: dict[str, float] = {}
        self._since_pull = habits.pull_every_steps
        self._accrued = 0
        self._names: list[str] | None = None

    def run(self) -> None:
        """Work until the coordinator ends it.

        Raises:
            Closed: the coordinator has gone.
        """
        if self._group.leads:
            self._coordinator = Listener(self._store, DOOR, HEADER).knock()
            self._coordinator.send([Message.HELLO, self._pusher])
            self._links = ServerConnections(self._store, self._flat, self._num_servers)
            self._lead(self._coordinator)
        else:
            self._follow()

    def _lead(self, coordinator: Connection) -> None:
        tells, latest = WorkReport(), (0, 0)
        while True:
            self._ask(coordinator, tells)
            word, number, update = map(int, coordinator.receive()[:3])
            tells = WorkReport()
            if word == Message.END:
                self._end()
                return
            if word == Message.CHUNK:
                latest = (number, update)
                self._since_pull += 1
                try:
                    self._work(number, update, tells)
                except PeerLost:
                    raise
                except Closed:  # a member has died: the chunk is done again
                    self._reform()
                    tells = WorkReport(self._accrued + 1, accepted=False)
                    self._accrued = 0
                    continue
                self._accrued += 1
            if self._accrued and (word == Message.FLUSH or self._accrued >= self._habits.push_every_steps):
                self._push(*latest, tells)

    def _ask(self, coordinator: Connection, tells: WorkReport) -> None:
        header: list[float] = [
            Message.ASK, tells.num_chunks, tells.accepted, self._told() is not None, tells.compute_s, tells.push_s, tells.pull_s,
            len(self._metrics),
        ]  # fmt: skip
        values: list[float] = []
        if tells.num_chunks and tells.accepted:
            values = [self._metrics[name] / tells.num_chunks for name in self._known()]
        if tells.num_chunks:
            self._metrics = {}
        coordinator.send([*header, *[0.0] * (METRICS_AT - len(header)), *values])

    def _known(self) -> list[str]:
        """Names of the metrics, which the coordinator learns once."""
        if self._names is None:
            self._names = sorted(self._metrics)
            self._store.set("metrics", json.dumps(self._names))
        return self._names

    def _work(self, number: int, update: int, tells: WorkReport) -> None:
        """Pull where it is time, and add the gradient of a chunk to what is to be pushed."""
        self._group.form()
        pulls = self._since_pull >= self._habits.pull_every_steps
        begin = time.perf_counter()
        if pulls:
            self._links.pull(self._weights, self._buffers)
            self._since_pull = 0
        tells.pull_s += time.perf_counter() - begin
        order = torch.tensor([0, number, update, pulls], dtype=torch.int64)
        assert len(order) == ORDER
        self._group.share(order)
        begin = time.perf_counter()
        self._compute(number, update, pulls=pulls)
        if self._habits.delay_s:
            time.sleep(self._habits.delay_s)
        tells.compute_s += time.perf_counter() - begin

    def _compute(self, number: int, update: int, *, pulls: bool) -> None:
        """Every member's part of a chunk."""
        group, flat, per_round = self._group, self._flat, self._habits.chunks_per_round
        if pulls:
            group.share(self._weights)
            flat.spread(self._weights)
            if len(self._buffers):
                group.share(self._buffers)
                flat.give_buffers(self._buffers)
        step, chunk = divmod(number, per_round)
        batch = self._fetch(step, chunk * group.size + group.member, per_round * group.size)
        metrics = self._single.backward(batch)
        if group.size > 1:
            flat.take_gradients(self._own, self._present)
            group.add(self._own)
            flat.give_gradients(self._own.div_(group.size))
            metrics = self._mean(metrics)
        clip = self._single.config.grad_clip_norm
        if clip is not None:
            metrics["grad_norm"] = clip_grad_norm_(self._single.parameters, clip)
        if self._habits.pull_every_steps > 1:
            self._step_alone(update)
        for name, value in metrics.items() if group.leads else ():
            self._metrics[name] = self._metrics.get(name, 0.0) + float(value)
        flat.take_gradients(self._gradient, self._present, add=self._accrued > 0)

    def _mean(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        stacked = torch.stack([value.detach().double().cpu() for value in metrics.values()])
        self._group.add(stacked)
        return dict(zip(metrics, (stacked / self._group.size).unbind(), strict=True))

    def _step_alone(self, update: int) -> None:
        """Between two pulls a replica goes on by plain SGD. Source: Dean et al. 2012, algorithm 1.1."""
        self._single.set_learning_rate(update)
        for group in self._single.optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    with torch.no_grad():
                        parameter.sub_(parameter.grad, alpha=group["lr"])

    def _push(self, number: int, update: int, tells: WorkReport) -> None:
        begin = time.perf_counter()
        self._flat.take_buffers(self._buffers)
        leads = number % self._habits.chunks_per_round == 0
        tells.accepted = self._links.push(self._gradient, self._present, self._buffers, number, update, leads=leads)
        tells.num_chunks, self._accrued = self._accrued, 0
        tells.push_s = time.perf_counter() - begin
        if not tells.accepted:
            self._since_pull = self._habits.pull_every_steps

    def _reform(self) -> None:
        self._group.leave()
        self._since_pull = self._habits.pull_every_steps  # whoever comes has no weights yet

    def _end(self) -> None:
        """Tell the other members."""
        if self._group.size > 1:
            try:
                self._group.form()
                self._group.share(torch.tensor([1, 0, 0, 0], dtype=torch.int64))
            except Closed:
                return

    def _follow(self) -> None:
        """A member that does what the first says."""
        while True:
            self._group.form()
            order = torch.empty(ORDER, dtype=torch.int64)
            try:
                self._group.share(order)
                ends, number, update, pulls = order.tolist()
                if ends:
                    return
                self._compute(number, update, pulls=bool(pulls))
            except Closed:
                self._group.leave()
