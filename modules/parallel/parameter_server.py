"""Asynchronous data parallelism: parameters live in servers, and replicas push gradients and pull weights as they come."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from modules.data.base import Batch
from modules.evaluator.base import AnyEvaluator
from modules.parallel import checkpoint_format as state
from modules.parallel.asynchronous.checkpoint import read_shards, write_shards
from modules.parallel.asynchronous.flat_parameters import FlatParameters
from modules.parallel.asynchronous.metrics import AsyncMetrics
from modules.parallel.asynchronous.replica import DOOR, HEADER, METRICS_AT, Message, Replica, ReplicaSettings
from modules.parallel.asynchronous.replica_group import ReplicaGroup
from modules.parallel.asynchronous.server_connections import ServerConnections
from modules.parallel.asynchronous.server_process import ServerProcess
from modules.parallel.asynchronous.server_shard import ParameterShard, Policy
from modules.parallel.asynchronous.staleness import Correction, correction_of
from modules.parallel.asynchronous.transport import Closed, Connection, Listener, find_meeting, open_meeting
from modules.parallel.asynchronous.work_queue import WorkQueue
from modules.parallel.base import EngineConfig, Fetch, TrainingTask
from modules.parallel.single import Single
from modules.parallel.topology import Degree, Topology

LOOKS_EVERY_S = 0.01
LEAVE_S = 5.0
"""For replicas to take the word that the training is over."""


class ParameterServer:
    """The engine of asynchronous, hybrid and backed-up replicas; as an engine it coordinates, beside it others play roles.

    Source: Dean et al. 2012, "Large scale distributed deep networks", section 4.1 (Downpour SGD); the bound on staleness by Ho
    et al. 2013, "More effective distributed ML via a stale synchronous parallel parameter server"; backup workers by Chen et
    al. 2016, arXiv:1604.00981.
    """

    def __init__(
        self, data: Degree, num_servers: int = 1, group_size: int = 1, num_backup_workers: int = 0,
        max_staleness: int | None = None, push_every_steps: int = 1, pull_every_steps: int = 1,
        correction: Correction = "none", compensation: float = 0.04, warm_start_steps: int = 0,
        snapshot_every_steps: int = 100, delays_s: Mapping[int, float] | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            data: replicas; "auto": one a device.
            num_servers: processes that hold a part of the weights each.
            group_size: replicas that make one gradient together.
            num_backup_workers: replicas beyond those whose gradients make an update: of all, the first count.
            max_staleness: gradients that a replica may be ahead of the slowest; 0: all in step; null: any number.
            push_every_steps: gradients that a replica adds up before it pushes.
            pull_every_steps: gradients that it computes on the weights that it has pulled.
            correction: what is done about a gradient of older weights.
            compensation: lambda of delay compensation.
            warm_start_steps: steps that the first replica does alone.
            snapshot_every_steps: updates that the death of a server may lose at most.
            delays_s: seconds that a replica, by number, sleeps with every gradient; for tests and figures.

        Raises:
            ValueError: there is no such correction, or a number is out of its range.
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
        self.correct = correction_of(correction, compensation)
        self.warm_start_steps, self.snapshot_every_steps = warm_start_steps, snapshot_every_steps
        self.delays_s = {int(number): float(delay_s) for number, delay_s in (delays_s or {}).items()}
        least = {
            "num_servers": 1,
            "group_size": 1,
            "num_backup_workers": 0,
            "push_every_steps": 1,
            "pull_every_steps": 1,
            "warm_start_steps": 0,
        }
        for name, bound in {**least, "snapshot_every_steps": 1, "max_staleness": 0}.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ValueError(f"ParameterServer wants {name} of at least {bound}, but got {value}")

    @property
    def policy(self) -> Policy:
        return "first" if self.num_backup_workers else "round" if self.max_staleness == 0 else "each"

    def chunks(self, topology: Topology) -> int:
        """Gradients that make a step."""
        return topology.data // self.group_size - self.num_backup_workers

    def roles(self, topology: Topology) -> dict[str, int]:
        replicas = topology.data
        servers = {f"server {number}": number * replicas // self.num_servers for number in range(self.num_servers)}
        return {**servers, **{f"replica {number}": number for number in range(replicas)}}

    def run_role(
        self, role: str, task: TrainingTask, config: EngineConfig, fetch: Fetch, should_stop: Callable[[], str | None]
    ) -> None:
        kind, _, number = role.partition(" ")
        if kind == "server":
            self._serve(int(number), task, config)
        else:
            self._replicate(int(number), task, config, fetch, should_stop)

    def _serve(self, number: int, task: TrainingTask, config: EngineConfig) -> None:
        flat = FlatParameters(task.model)
        factor = lambda update: task.schedule.factor(update, config.num_steps)  # noqa: E731
        shard = ParameterShard(
            flat, flat.shard(number, self.num_servers), task.optimizer, factor, self.correct, self.policy,
            self.chunks(config.topology),
        )  # fmt: skip
        store = find_meeting(config.rank.meeting)
        ServerProcess(store, number, shard, flat, config.folder, self.snapshot_every_steps).run()

    def _replicate(
        self, number: int, task: TrainingTask, config: EngineConfig, fetch: Fetch, should_stop: Callable[[], str | None]
    ) -> None:
        single = _alone(task, config)
        store = find_meeting(config.rank.meeting)
        group = ReplicaGroup(store, number // self.group_size, number % self.group_size, self.group_size)
        habits = ReplicaSettings(
            self.push_every_steps, self.pull_every_steps, self.chunks(config.topology), self.delays_s.get(number, 0.0)
        )
        flat = FlatParameters(single.model)
        Replica(
            store, group, number // self.group_size, self.num_servers, single, flat, habits, fetch, should_stop
        ).run()

    def prepare(self, task: TrainingTask, config: EngineConfig) -> None:
        self.config, self.per_round = config, self.chunks(config.topology)
        self._folder = config.folder
        self.single = _alone(task, config)
        self.flat = FlatParameters(self.single.model)
        self.vector = self.flat.collect(torch.empty(self.flat.size, dtype=self.flat.dtype))
        self.buffers = self.flat.take_buffers(torch.empty(self.flat.num_buffers, dtype=torch.float64))
        self.hand: WorkQueue | None = None
        self._reports: list[tuple[int, int, list[float]]] = []
        self._wires: dict[int, Connection] = {}
        self._last: dict[str, Tensor] = {}
        self._stop_reason: str | None = None
        self._met: int | None = None
        self._is_over = False
        self._change = threading.Condition()
        self.measured = AsyncMetrics(self.num_servers)
        self.store = open_meeting(config.rank.meeting, config.rank.listener)
        threading.Thread(target=self._watch_door, daemon=True).start()
        self.links = ServerConnections(self.store, self.flat, self.num_servers)

    def _watch_door(self) -> None:
        door = Listener(self.store, DOOR, HEADER)
        while not self._is_over:
            ticket = door.waiting()
            if ticket is None:
                time.sleep(LOOKS_EVERY_S)
            else:
                threading.Thread(target=self._attend, args=(door, ticket), daemon=True).start()

    def _attend(self, door: Listener, ticket: str) -> None:
        """One replica's connection, from its hello to its end."""
        pusher, wire = -1, None
        with contextlib.suppress(Closed):
            wire = door.let_in(ticket)
            pusher = int(wire.receive()[1])
            with self._change:
                self._change.wait_for(lambda: self.hand is not None or self._is_over)
                if self.hand is not None:
                    if pusher in self._wires:  # it has died, and is back before that was noticed
                        self.hand.leave(pusher)
                    self.hand.join(pusher)
                self._wires[pusher] = wire
                self._change.notify_all()
            while self._answer(wire, pusher):
                pass
        with self._change:
            if wire is not None and self._wires.get(pusher) is wire:
                del self._wires[pusher]
                if self.hand is not None:
                    self.hand.leave(pusher)
            self._change.notify_all()

    def _answer(self, wire: Connection, pusher: int) -> bool:
        """Take a question, and answer it; False once it was the last."""
        _, num_chunks, accepted, stop, compute_s, push_s, pull_s, *rest = wire.receive()
        with self._change:
            if self._wires.get(pusher) is not wire:
                raise Closed("another has taken its place")
            if stop and self._stop_reason is None:
                self._stop_reason = f"replica {pusher * self.group_size} was asked to stop"
            if self.hand is not None:
                self._take(pusher, int(num_chunks), rest[METRICS_AT - 7 :], accepted=bool(accepted))
            self.measured.add(pusher, int(num_chunks) if accepted else 0, compute_s, push_s, pull_s)
            self._change.notify_all()
            while not self._is_over and self.hand is not None:
                chunk = self.hand.next(pusher)
                if chunk is not None:
                    answer = [Message.CHUNK, chunk.number, chunk.update]
                    break
                if self.hand.holds(pusher):
                    answer = [Message.FLUSH]
                    break
                self._change.wait()
            else:
                answer = [Message.END]
        wire.send(answer)
        return answer[0] != Message.END

    def _take(self, pusher: int, num_chunks: int, values: list[float], *, accepted: bool) -> None:
        assert self.hand is not None
        if num_chunks:
            numbers = self.hand.report(pusher, num_chunks, accepted=accepted)
            if accepted:
                self._reports.append((numbers[0], num_chunks, values))

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        with self._change:
            if self.hand is None:
                self.hand = WorkQueue(self.per_round, self.policy, self.max_staleness, self.warm_start_steps, step)
            hand = self.hand
            if step >= hand.limit:
                hand.limit = self._next_meeting(step)
                self._met = None
            self._change.notify_all()
            self._change.wait_for(lambda: hand.done >= (step + 1) * self.per_round)
            metrics = self._metrics()
            is_meeting = step + 1 == hand.limit
        if is_meeting:
            self._meet(step + 1)
        return metrics

    def _next_meeting(self, step: int) -> int:
        return min([(step // every + 1) * every for every in self.config.meets_every] + [self.config.num_steps])

    def _metrics(self) -> dict[str, Tensor]:
        """Means over the chunks that came first of those that no step has counted."""
        taken, found = 0, []
        while taken < self.per_round and self._reports:
            taken += self._reports[0][1]
            found.append(self._reports.pop(0))
        if not found:  # one replica told of several steps at once
            return dict(self._last)
        names = json.loads(self.store.get("metrics"))
        rows = torch.tensor([values[: len(names)] for _, _, values in sorted(found)], dtype=torch.float32)
        weights = torch.tensor([float(count) for _, count, _ in sorted(found)])
        mean = rows[0] if len(rows) == 1 else (rows * weights[:, None]).sum(0) / weights.sum()
        self._last = dict(zip(names, mean.unbind(), strict=True))
        return dict(self._last)

    def _meet(self, done: int) -> None:
        """All that was begun is done: keep what the servers have now, and have their weights here."""
        self.links.mark(self.vector, self.buffers)
        self.flat.spread(self.vector)
        self.flat.give_buffers(self.buffers)
        self._met = done

    def drain_at(self, done: int) -> bool:
        with self._change:
            if self.hand is None or self._met == done:
                return True
            last = self.hand.stop(done)
        if last == done and self._met != done:
            self._meet(done)
        return last == done

    @property
    def stop_reason(self) -> str | None:
        """Why a replica wants the training to stop."""
        return self._stop_reason

    def evaluate(self, batches: Iterable[tuple[Batch, bool]], evaluator: AnyEvaluator) -> dict[str, float]:
        return self.single.evaluate(batches, evaluator)

    def snapshot(self) -> Callable[[Path], None] | None:
        self.links.write()
        copy = state.collect(self.single.tensors, self.single.optimizer)
        copy.entries = read_shards(self._folder, self.flat, self.links.bounds)
        return copy.write

    def load(self, folder: Path) -> None:
        self.single.load(folder)
        write_shards(self._folder, self.flat, self.links.bounds, self.single.optimizer)
        self.links.restore()

    def weights(self) -> dict[str, Tensor]:
        return self.single.weights()

    def gather(self, value: float) -> list[float]:
        return [value]

    def take_metrics(self) -> dict[str, float]:
        with self._change:
            alive = len(self._wires) * self.group_size
        of_chunk = self.config.num_accumulation * self.config.batch_size_per_device * self.group_size
        return self.measured.told(self.links.stats(), alive, of_chunk)

    def close(self) -> None:
        with self._change:
            self._is_over = True
            self._change.notify_all()
            self._change.wait_for(lambda: not self._wires, LEAVE_S)
        self.links.end()


def _alone(task: TrainingTask, config: EngineConfig) -> Single:
    """The model on this process's device, as one process would train it."""
    single = Single()
    single.prepare(task, replace(config, topology=Topology(), rank=replace(config.rank, number=0)))
    return single
