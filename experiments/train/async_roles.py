"""The roles in an asynchronous training: one coordinator, which logs and saves; replicas and servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from experiments.train.data_loading import ALL, DataShard, make_training_batches
from experiments.train.determinism import seed_step
from experiments.train.loading.limited_split import limit_training
from experiments.train.trainer import Trainer
from modules.data.base import Batch, Split
from modules.parallel.base import ManagedEngine
from modules.parallel.topology import RankCoordinates

Ended = tuple[Literal["finished", "interrupted"], str | None]


class Coordinator(Trainer):
    """Counts the replicas' steps, evaluates, saves checkpoints and writes the journal."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.shard, self.num_synchronous, self.covers_all_processes = ALL, 1, False
        self.stop_request = self.should_stop
        self.should_stop = self._drained_stop_reason

    @property
    def managed_engine(self) -> ManagedEngine:
        return cast(ManagedEngine, self.components.engine)

    def run(self) -> Ended:
        try:
            return super().run()
        finally:
            if hasattr(self, "checkpointer"):  # then the engine is prepared
                self.checkpointer.finish()
                self.managed_engine.close()

    def _drained_stop_reason(self) -> str | None:
        """Return why to stop, once all work that was handed out is done."""
        reason = self.stop_request() or self.managed_engine.stop_reason
        return reason if reason is not None and self.managed_engine.drain_at(self.done) else None

    def _batches(self, train: object, first_step: int, num_steps: int) -> Any:
        """Yield no data: the replicas fetch their own batches."""
        return ((None, None) for _ in range(first_step, num_steps))

    def _step_metrics(self, done: int, step_time_s: float) -> Mapping[str, float]:
        return {**super()._step_metrics(done, step_time_s), **self.managed_engine.take_metrics()}


@dataclass
class ReplicaOrServer(Trainer):
    """Runs a server or a replica until the coordinator ends it. It writes nothing."""

    role: str = ""

    def run(self) -> Ended:
        engine = cast(ManagedEngine, self.components.engine)
        with self._as_input_error():
            fetch = self._make_fetch() if self.role.startswith("replica") else _fetch_nothing
            engine.run_role(self.role, self.components.setup, self.make_engine_config(), fetch, self.should_stop)
        return "finished", None

    def _make_fetch(self) -> Callable[[int, int, int], Batch]:
        size = self.plan.batch_size_global
        train = limit_training(self.components.data.load("train"), self.config, size)
        batches = make_training_batches(cast(Split, train), size, self.config["seed"])
        seed = self.config["seed"]

        def fetch(step: int, number: int, count: int) -> Batch:
            batch = batches.fetch(step, DataShard(number, count))
            seed_step(seed, step, RankCoordinates(0, number, 0))
            return batch

        return fetch


def _fetch_nothing(step: int, number: int, count: int) -> Batch:
    raise AssertionError("a server fetches no data")
