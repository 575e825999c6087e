"""Asynchronous data parallelism: servers hold the parameters, replicas push gradients and pull weights independently."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from modules.data.base import Batch
from modules.evaluator.base import AnyEvaluator
from modules.optimizer.base import find_optimizer_problems, find_schedule
from modules.parallel import checkpoint_format as state
from modules.parallel.asynchronous.checkpoint import read_shards, write_shards
from modules.parallel.asynchronous.flat_parameters import FlatParameters
from modules.parallel.asynchronous.metrics import AsyncMetrics
from modules.parallel.asynchronous.replica import COORDINATOR, HEADER, METRICS_AT, Message, Replica, ReplicaSettings
from modules.parallel.asynchronous.replica_group import ReplicaGroup
from modules.parallel.asynchronous.server_connections import ServerConnections
from modules.parallel.asynchronous.server_process import ServerProcess
from modules.parallel.asynchronous.server_shard import ParameterShard, Policy
from modules.parallel.asynchronous.staleness import Correction, make_correction
from modules.parallel.asynchronous.transport import Closed, Connection, Listener
from modules.parallel.asynchronous.work_queue import WorkQueue
from modules.parallel.base import EngineConfig, Fetch, TrainingSetup, find_unserved
from modules.parallel.cost_model.compatibility import find_splitting
from modules.parallel.shared_store import join_store, open_store
from modules.parallel.single import Single
from modules.parallel.topology import Degree, Settings, Topology

POLL_S = 0.01
END_TIMEOUT_S = 5.0
"""Time for the replicas to receive the message that the training is over."""


class ParameterServer:
    """The engine for asynchronous and hybrid replicas and for backup workers. Rank 0 coordinates; the other processes run roles.

    Source: Dean et al. 2012, "Large scale distributed deep networks", section 4.1 (Downpour SGD); the bound on staleness by Ho
    et al. 2013, "More effective distributed ML via a stale synchronous parallel parameter server"; backup workers by Chen et
    al. 2016, arXiv:1604.00981.
    """

    is_component = True
    serves = ("inputs",)
    settings: ClassVar[Settings] = {
        "data": "data", "num_servers": "num_servers", "group_size": "group_size", "num_backup_workers": "num_backup_workers",
        "max_staleness": "max_staleness", "push_every_steps": "push_every_steps", "pull_every_steps": "pull_every_steps",
        "correction": "correction", "warm_start_steps": "warm_start_steps", "snapshot_every_steps": "snapshot_every_steps",
        "delays_s": "delays_s",
    }  # fmt: skip

    def __init__(
        self, data: Degree, num_servers: int = 1, group_size: int = 1, num_backup_workers: int = 0,
        max_staleness: int | None = None, push_every_steps: int = 1, pull_every_steps: int = 1,
        correction: Correction = "none", compensation: float = 0.04, warm_start_steps: int = 0,
        snapshot_every_steps: int = 100, delays_s: Mapping[int, float] | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            data: number of replicas; "auto": one per device.
            num_servers: processes that each hold a shard of the weights.
            group_size: replicas that compute one gradient together.
            num_backup_workers: replicas beyond those that an update needs; the update takes the gradients that arrive first.
            max_staleness: gradients by which a replica may be ahead of the slowest one; 0: all stay in step; null: no bound.
            push_every_steps: gradients that a replica adds up before it pushes them.
            pull_every_steps: gradients that a replica computes between two pulls of the weights.
            correction: how a server corrects a gradient of stale weights.
            compensation: lambda of the delay compensation.
            warm_start_steps: steps at the start that the first replica makes alone.
            snapshot_every_steps: the most updates that the death of a server may lose.
            delays_s: seconds that a replica (by number) sleeps after each gradient; for tests and figures.

        Raises:
            ValueError: the correction is unknown or a number is out of range.
        """
        self.data, self.num_servers, self.group_size, self.num_backup_workers = (
            data,
            num_servers,
            group_size,
            num_backup_workers,
        )
        self.max_staleness, self.push_every_steps, self.pull_every_steps = (
            max_staleness,
            push_every_steps,
            pull_every_steps,
        )
        self.correct = make_correction(correction, compensation)
        self.warm_start_steps, self.snapshot_every_steps = warm_start_steps, snapshot_every_steps
        self.delays_s = {int(number): float(delay_s) for number, delay_s in (delays_s or {}).items()}
        minimums = {
            "num_servers": 1,
            "group_size": 1,
            "num_backup_workers": 0,
            "push_every_steps": 1,
            "pull_every_steps": 1,
            "warm_start_steps": 0,
        }
        for name, bound in {**minimums, "snapshot_every_steps": 1, "max_staleness": 0}.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ValueError(f"ParameterServer wants {name} of at least {bound}, but got {value}")

    @property
    def policy(self) -> Policy:
        return "first" if self.num_backup_workers else "round" if self.max_staleness == 0 else "each"

    def chunks(self, topology: Topology) -> int:
        """Number of gradients that make one step."""
        return topology.data // self.group_size - self.num_backup_workers

    def roles(self, topology: Topology) -> dict[str, int]:
        replicas = topology.data
        servers = {f"server {number}": number * replicas // self.num_servers for number in range(self.num_servers)}
        return {**servers, **{f"replica {number}": number for number in range(replicas)}}

    def run_role(
        self, role: str, setup: TrainingSetup, config: EngineConfig, fetch: Fetch, should_stop: Callable[[], str | None]
    ) -> None:
        kind, _, number = role.partition(" ")
        if kind == "server":
            self._serve(int(number), setup, config)
        else:
            self._replicate(int(number), setup, config, fetch, should_stop)

    def _serve(self, number: int, setup: TrainingSetup, config: EngineConfig) -> None:
        flat = FlatParameters(setup.model)
        schedule = find_schedule(setup.optimizer) or setup.schedule
        shard = ParameterShard(
            flat, flat.shard(number, self.num_servers), setup.optimizer,
            lambda update: schedule.factor(update, config.num_steps), self.correct, self.policy,
            self.chunks(config.topology),
        )  # fmt: skip
        store = join_store(config.rank)
        ServerProcess(store, number, shard, flat, config.folder, self.snapshot_every_steps).run()

    def _replicate(
        self,
        number: int,
        setup: TrainingSetup,
        config: EngineConfig,
        fetch: Fetch,
        should_stop: Callable[[], str | None],
    ) -> None:
        single = _make_single(setup, config)
        store = join_store(config.rank)
        group = ReplicaGroup(store, number // self.group_size, number % self.group_size, self.group_size)
        settings = ReplicaSettings(
            self.push_every_steps, self.pull_every_steps, self.chunks(config.topology), self.delays_s.get(number, 0.0)
        )
        flat = FlatParameters(single.model)
        Replica(
            store, group, number // self.group_size, self.num_servers, single, flat, settings, fetch, should_stop
        ).run()

    def prepare(self, setup: TrainingSetup, config: EngineConfig) -> None:
        problems = find_unserved(setup.get_task(), self)
        splits = find_splitting(0, Topology(), self.num_servers, self.settings)
        names = [name for name, parameter in setup.model.named_parameters() if parameter.requires_grad]
        if problems := problems + find_optimizer_problems(setup.optimizer, names, splits):
            raise ValueError("; ".join(problems))
        self.config, self.chunks_per_round = config, self.chunks(config.topology)
        self._folder = config.folder
        self.single = _make_single(setup, config)
        self.flat = FlatParameters(self.single.model)
        self.vector = self.flat.collect(torch.empty(self.flat.size, dtype=self.flat.dtype))
        self.buffers = self.flat.take_buffers(torch.empty(self.flat.num_buffers, dtype=torch.float64))
        self.queue: WorkQueue | None = None
        self._reports: list[tuple[int, int, list[float]]] = []
        self._connections: dict[int, Connection] = {}
        self._last_metrics: dict[str, Tensor] = {}
        self._stop_reason: str | None = None
        self._synced_at: int | None = None
        self._is_over = False
        self._change = threading.Condition()
        self.async_metrics = AsyncMetrics(self.num_servers)
        self.store = open_store(config.rank)
        threading.Thread(target=self._accept_replicas, daemon=True).start()
        self.servers = ServerConnections(self.store, self.flat, self.num_servers)

    def _accept_replicas(self) -> None:
        listener = Listener(self.store, COORDINATOR, HEADER)
        while not self._is_over:
            ticket = listener.next_ticket()
            if ticket is None:
                time.sleep(POLL_S)
            else:
                threading.Thread(target=self._serve_replica, args=(listener, ticket), daemon=True).start()

    def _serve_replica(self, listener: Listener, ticket: str) -> None:
        """Serve the connection of one replica until it ends."""
        pusher, connection = -1, None
        with contextlib.suppress(Closed):
            connection = listener.accept(ticket)
            pusher = int(connection.receive()[1])
            with self._change:
                self._change.wait_for(lambda: self.queue is not None or self._is_over)
                if self.queue is not None:
                    if pusher in self._connections:  # it died and came back before the coordinator noticed
                        self.queue.leave(pusher)
                    self.queue.join(pusher)
                self._connections[pusher] = connection
                self._change.notify_all()
            while self._serve_request(connection, pusher):
                pass
        with self._change:
            if connection is not None and self._connections.get(pusher) is connection:
                del self._connections[pusher]
                if self.queue is not None:
                    self.queue.leave(pusher)
            self._change.notify_all()

    def _serve_request(self, connection: Connection, pusher: int) -> bool:
        """Receive one report and answer with work; False after the last answer."""
        _, num_chunks, accepted, stop, compute_s, push_s, pull_s, *rest = connection.receive()
        with self._change:
            if self._connections.get(pusher) is not connection:
                raise Closed("another process has taken the place of this replica")
            if stop and self._stop_reason is None:
                self._stop_reason = f"replica {pusher * self.group_size} was asked to stop"
            if self.queue is not None:
                self._take(pusher, int(num_chunks), rest[METRICS_AT - 7 :], accepted=bool(accepted))
            self.async_metrics.add(pusher, int(num_chunks) if accepted else 0, compute_s, push_s, pull_s)
            self._change.notify_all()
            while not self._is_over and self.queue is not None:
                chunk = self.queue.next(pusher)
                if chunk is not None:
                    reply = [Message.CHUNK, chunk.number, chunk.update]
                    break
                if self.queue.has_unpushed(pusher):
                    reply = [Message.FLUSH]
                    break
                self._change.wait()
            else:
                reply = [Message.END]
        connection.send(reply)
        return reply[0] != Message.END

    def _take(self, pusher: int, num_chunks: int, values: list[float], *, accepted: bool) -> None:
        assert self.queue is not None
        if num_chunks:
            numbers = self.queue.report(pusher, num_chunks, accepted=accepted)
            if accepted:
                self._reports.append((numbers[0], num_chunks, values))

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        with self._change:
            if self.queue is None:
                self.queue = WorkQueue(
                    self.chunks_per_round, self.policy, self.max_staleness, self.warm_start_steps, step
                )
            queue = self.queue
            if step >= queue.limit:
                queue.limit = self._next_sync(step)
                self._synced_at = None
            self._change.notify_all()
            self._change.wait_for(lambda: queue.done >= (step + 1) * self.chunks_per_round)
            metrics = self._metrics()
            is_sync_step = step + 1 == queue.limit
        if is_sync_step:
            self._synchronize(step + 1)
        return metrics

    def _next_sync(self, step: int) -> int:
        return min([(step // every + 1) * every for every in self.config.sync_every_steps] + [self.config.num_steps])

    def _metrics(self) -> dict[str, Tensor]:
        """Mean over the chunks that arrived first and that no step has counted yet."""
        taken, reports = 0, []
        while taken < self.chunks_per_round and self._reports:
            taken += self._reports[0][1]
            reports.append(self._reports.pop(0))
        if not reports:  # one replica reported several steps at once
            return dict(self._last_metrics)
        names = json.loads(self.store.get("metrics"))
        rows = torch.tensor([values[: len(names)] for _, _, values in sorted(reports)], dtype=torch.float32)
        weights = torch.tensor([float(count) for _, count, _ in sorted(reports)])
        mean = rows[0] if len(rows) == 1 else (rows * weights[:, None]).sum(0) / weights.sum()
        self._last_metrics = dict(zip(names, mean.unbind(), strict=True))
        return dict(self._last_metrics)

    def _synchronize(self, done: int) -> None:
        """All started work is done: let the servers mark their state, and copy their weights into the model here."""
        self.servers.mark(self.vector, self.buffers)
        self.flat.spread(self.vector)
        self.flat.give_buffers(self.buffers)
        self._synced_at = done

    def drain_at(self, done: int) -> bool:
        with self._change:
            if self.queue is None or self._synced_at == done:
                return True
            last = self.queue.stop(done)
        if last == done and self._synced_at != done:
            self._synchronize(done)
        return last == done

    @property
    def stop_reason(self) -> str | None:
        """Why a replica asks to stop the training; None where none does."""
        return self._stop_reason

    def evaluate(self, batches: Iterable[tuple[Batch, bool]], evaluator: AnyEvaluator) -> dict[str, float]:
        return self.single.evaluate(batches, evaluator)

    def snapshot(self) -> Callable[[Path], None] | None:
        self.servers.write()
        copy = state.collect(self.single.tensors, self.single.optimizer)
        copy.entries = read_shards(self._folder, self.flat, self.servers.bounds)
        return copy.write

    def load(self, folder: Path) -> None:
        self.single.load(folder)
        write_shards(self._folder, self.flat, self.servers.bounds, self.single.optimizer)
        self.servers.restore()

    def weights(self) -> dict[str, Tensor]:
        return self.single.weights()

    def gather(self, value: float) -> list[float]:
        return [value]

    def take_metrics(self) -> dict[str, float]:
        with self._change:
            alive = len(self._connections) * self.group_size
        of_chunk = self.config.num_accumulation * self.config.batch_size_per_device * self.group_size
        return self.async_metrics.summarize(self.servers.stats(), alive, of_chunk)

    def close(self) -> None:
        with self._change:
            self._is_over = True
            self._change.notify_all()
            self._change.wait_for(lambda: not self._connections, END_TIMEOUT_S)
        self.servers.end()


def _make_single(setup: TrainingSetup, config: EngineConfig) -> Single:
    """The model on this process's device, as a single process trains it."""
    single = Single()
    single.prepare(setup, replace(config, topology=Topology(), rank=replace(config.rank, number=0)))
    return single
