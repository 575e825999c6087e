"""A replica of asynchronous training: it requests work, pulls weights, computes a gradient and pushes it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from modules.parallel.asynchronous.flat_parameters import FlatParameters
from modules.parallel.asynchronous.replica_group import COMMAND_SIZE, ReplicaGroup
from modules.parallel.asynchronous.server_connections import ServerConnections
from modules.parallel.asynchronous.transport import Closed, Connection, Listener, PeerLost
from modules.parallel.base import Fetch
from modules.parallel.shared_store import SharedStore
from modules.parallel.single import Single

COORDINATOR = "coordinator"
HEADER = 64
"""Numbers in a header to or from the coordinator."""
METRICS_AT = 16


class Message(IntEnum):
    """Kinds of messages between replicas and the coordinator."""

    HELLO = 1
    ASK = 2
    CHUNK = 3
    FLUSH = 4
    """Push all gradients now: there is no other work."""
    END = 5


@dataclass(frozen=True)
class ReplicaSettings:
    """How a replica works."""

    push_every_steps: int
    pull_every_steps: int
    chunks_per_round: int
    delay_s: float
    """Sleep after each chunk; simulates a slow machine in tests and figures."""


@dataclass
class WorkReport:
    """What a replica reports when it requests more work."""

    num_chunks: int = 0
    accepted: bool = True
    compute_s: float = 0.0
    push_s: float = 0.0
    pull_s: float = 0.0


class Replica:
    """One replica, or one member of a group of replicas that computes each gradient together."""

    def __init__(
        self, store: SharedStore, group: ReplicaGroup, pusher: int, num_servers: int, single: Single, flat: FlatParameters,
        settings: ReplicaSettings, fetch: Fetch, should_stop: Callable[[], str | None],
    ) -> None:  # fmt: skip
        """
        Args:
            store: where the processes of this training find each other.
            group: the group of this replica.
            pusher: number of the group.
            num_servers: number of parameter servers.
            single: computes the gradients of the model.
            flat: the parameters of the model as one vector.
            settings: how often it pushes and pulls.
            fetch: reads its data.
            should_stop: returns a reason to stop the training, or None.
        """
        self._store, self._group, self._pusher, self._single, self._flat = store, group, pusher, single, flat
        self._settings, self._fetch, self._should_stop, self._num_servers = settings, fetch, should_stop, num_servers
        self._weights = flat.collect(torch.empty(flat.size, dtype=flat.dtype))
        self._gradient = torch.zeros_like(self._weights)
        self._own = torch.zeros_like(self._weights) if settings.push_every_steps > 1 else self._gradient
        self._present = torch.zeros(len(flat), dtype=torch.float64)
        self._buffers = torch.empty(flat.num_buffers, dtype=torch.float64)
        self._metrics: dict[str, float] = {}
        self._since_pull = settings.pull_every_steps
        self._accrued = 0
        self._names_cache: list[str] | None = None

    def run(self) -> None:
        """Work until the coordinator ends the training.

        Raises:
            Closed: the coordinator has exited.
        """
        if self._group.leads:
            self._coordinator = Listener(self._store, COORDINATOR, HEADER).connect()
            self._coordinator.send([Message.HELLO, self._pusher])
            self._servers = ServerConnections(self._store, self._flat, self._num_servers)
            self._run_leader(self._coordinator)
        else:
            self._run_member()

    def _run_leader(self, coordinator: Connection) -> None:
        report, latest = WorkReport(), (0, 0)
        while True:
            self._request_work(coordinator, report)
            message, number, update = map(int, coordinator.receive()[:3])
            report = WorkReport()
            if message == Message.END:
                self._end()
                return
            if message == Message.CHUNK:
                latest = (number, update)
                self._since_pull += 1
                try:
                    self._work(number, update, report)
                except PeerLost:
                    raise
                except Closed:  # a member has died: the chunk is computed again
                    self._leave_group()
                    report = WorkReport(self._accrued + 1, accepted=False)
                    self._accrued = 0
                    continue
                self._accrued += 1
            if self._accrued and (message == Message.FLUSH or self._accrued >= self._settings.push_every_steps):
                self._push(*latest, report)

    def _request_work(self, coordinator: Connection, report: WorkReport) -> None:
        header: list[float] = [
            Message.ASK, report.num_chunks, report.accepted, self._should_stop() is not None,
            report.compute_s, report.push_s, report.pull_s,
            len(self._metrics),
        ]  # fmt: skip
        values: list[float] = []
        if report.num_chunks and report.accepted:
            values = [self._metrics[name] / report.num_chunks for name in self._metric_names()]
        if report.num_chunks:
            self._metrics = {}
        coordinator.send([*header, *[0.0] * (METRICS_AT - len(header)), *values])

    def _metric_names(self) -> list[str]:
        """Names of the metrics; sent to the coordinator once."""
        if self._names_cache is None:
            self._names_cache = sorted(self._metrics)
            self._store.set("metrics", json.dumps(self._names_cache))
        return self._names_cache

    def _work(self, number: int, update: int, report: WorkReport) -> None:
        """Pull the weights if that is due, and add the gradient of a chunk to the gradient that is pushed next."""
        self._group.form()
        pulls = self._since_pull >= self._settings.pull_every_steps
        begin = time.perf_counter()
        if pulls:
            self._servers.pull(self._weights, self._buffers)
            self._since_pull = 0
        report.pull_s += time.perf_counter() - begin
        command = torch.tensor([0, number, update, pulls], dtype=torch.int64)
        assert len(command) == COMMAND_SIZE
        self._group.broadcast(command)
        begin = time.perf_counter()
        self._compute(number, update, pulls=pulls)
        if self._settings.delay_s:
            time.sleep(self._settings.delay_s)
        report.compute_s += time.perf_counter() - begin

    def _compute(self, number: int, update: int, *, pulls: bool) -> None:
        """Compute this member's part of a chunk."""
        group, flat, chunks_per_round = self._group, self._flat, self._settings.chunks_per_round
        if pulls:
            group.broadcast(self._weights)
            flat.spread(self._weights)
            if len(self._buffers):
                group.broadcast(self._buffers)
                flat.give_buffers(self._buffers)
        step, chunk = divmod(number, chunks_per_round)
        shard = chunk * group.size + group.member, chunks_per_round * group.size
        batch = self._fetch(step, *shard)
        self._single.forward.shard = shard
        metrics = self._single.backward(batch, step)
        if group.size > 1:
            flat.take_gradients(self._own, self._present)
            group.all_reduce(self._own)
            flat.give_gradients(self._own.div_(group.size))
            metrics = self._mean(metrics)
        clip = self._single.config.grad_clip_norm
        if clip is not None:
            metrics["grad_norm"] = clip_grad_norm_(self._single.parameters, clip)
        if self._settings.pull_every_steps > 1:
            self._step_alone(update)
        for name, value in metrics.items() if group.leads else ():
            self._metrics[name] = self._metrics.get(name, 0.0) + float(value)
        flat.take_gradients(self._gradient, self._present, add=self._accrued > 0)

    def _mean(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        stacked = torch.stack([value.detach().double().cpu() for value in metrics.values()])
        self._group.all_reduce(stacked)
        return dict(zip(metrics, (stacked / self._group.size).unbind(), strict=True))

    def _step_alone(self, update: int) -> None:
        """Make a plain SGD step on the local weights between two pulls. Source: Dean et al. 2012, algorithm 1.1."""
        self._single.updates[0].set_learning_rate(update, self._single.config.num_steps)
        for group in self._single.optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    with torch.no_grad():
                        parameter.sub_(parameter.grad, alpha=group["lr"])

    def _push(self, number: int, update: int, report: WorkReport) -> None:
        begin = time.perf_counter()
        self._flat.take_buffers(self._buffers)
        leads = number % self._settings.chunks_per_round == 0
        report.accepted = self._servers.push(self._gradient, self._present, self._buffers, number, update, leads=leads)
        report.num_chunks, self._accrued = self._accrued, 0
        report.push_s = time.perf_counter() - begin
        if not report.accepted:
            self._since_pull = self._settings.pull_every_steps

    def _leave_group(self) -> None:
        self._group.leave()
        self._since_pull = self._settings.pull_every_steps  # a new member has no weights yet

    def _end(self) -> None:
        """Tell the other members that the training is over."""
        if self._group.size > 1:
            try:
                self._group.form()
                self._group.broadcast(torch.tensor([1, 0, 0, 0], dtype=torch.int64))
            except Closed:
                return

    def _run_member(self) -> None:
        """Follow the commands of the group's first member."""
        while True:
            self._group.form()
            command = torch.empty(COMMAND_SIZE, dtype=torch.int64)
            try:
                self._group.broadcast(command)
                ends, number, update, pulls = command.tolist()
                if ends:
                    return
                self._compute(number, update, pulls=bool(pulls))
            except Closed:
                self._group.leave()
