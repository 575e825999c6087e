"""What the processes of an asynchronous training do: one coordinates, and is the training to all others; servers and replicas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from experiments.train.data_loading import ALL, DataShard, TrainingBatches
from experiments.train.trainer import Trainer, seed_step
from modules.data.base import Batch
from modules.parallel.base import ManagedEngine
from modules.parallel.topology import RankCoordinates

Ended = tuple[Literal["finished", "interrupted"], str | None]


class Coordinator(Trainer):
    """The training as all others see it: its steps are the replicas' rounds, and it evaluates, saves and writes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.share, self.num_together, self.sees_all, self.asked = ALL, 1, False, self.should_stop
        self.should_stop = self._why

    @property
    def served(self) -> ManagedEngine:
        return cast(ManagedEngine, self.parts.engine)

    def run(self) -> Ended:
        try:
            return super().run()
        finally:
            if hasattr(self, "saver"):  # from then on the engine is prepared
                self.saver.finish()
                self.served.close()

    def _why(self) -> str | None:
        """Why to stop, at a step where all that was begun is done."""
        reason = self.asked() or self.served.stop_reason
        return reason if reason is not None and self.served.drain_at(self.done) else None

    def _batches(self, train: object, first_step: int) -> Any:
        """Replicas fetch their own."""
        return ((None, None) for _ in range(first_step, self.plan.num_steps))

    def _of_step(self, done: int, step_time_s: float) -> Mapping[str, float]:
        return {**super()._of_step(done, step_time_s), **self.served.take_metrics()}


@dataclass
class ReplicaOrServer(Trainer):
    """A server or a replica: it writes nothing, and lives until the coordinator ends it."""

    role: str = ""

    def run(self) -> Ended:
        engine = cast(ManagedEngine, self.parts.engine)
        with self._wrong_input():
            fetch = self._fetch() if self.role.startswith("replica") else _nothing
            engine.run_role(self.role, self.parts.task, self.engine_config(), fetch, self.should_stop)
        return "finished", None

    def _fetch(self) -> Callable[[int, int, int], Batch]:
        batches = TrainingBatches(self.parts.data.load("train"), self.plan.batch_size_global, self.config["seed"])
        seed = self.config["seed"]

        def fetch(step: int, number: int, count: int) -> Batch:
            batch = batches.of(step, DataShard(number, count))
            seed_step(seed, step, RankCoordinates(0, number, 0))
            return batch

        return fetch


def _nothing(step: int, number: int, count: int) -> Batch:
    raise AssertionError("a server has no data")
