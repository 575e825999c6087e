"""The training curves: a watch on every step's loss, and the points that are due."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor

from experiments.core.errors import TrainingError
from experiments.plan.plan import Plan
from experiments.run.journal import Journal
from modules.schedule.base import Schedule

T = TypeVar("T")


class MetricLogger:
    """Points of the training curves, logged every few steps."""

    def __init__(
        self, config: Mapping[str, Any], plan: Plan, schedule: Schedule, journal: Journal, first_step: int, tokens: int,
        usage: Callable[[int, float], Mapping[str, float]],
    ) -> None:  # fmt: skip
        """
        Args:
            config: the trial's.
            plan: with the length of the training.
            schedule: of the learning rate.
            journal: where points go.
            first_step: steps that were done before.
            tokens: of one example's targets; 0 where they are no sequence.
            usage: gives further metrics of a step, from its number and its seconds.
        """
        self.usage = usage
        self.plan, self.schedule, self.journal, self.tokens = plan, schedule, journal, tokens
        self.pending: list[tuple[int, dict[str, Tensor]]] = []
        self.every = int(config["log_every_steps"])
        self.learning_rate = config["optimizer"].get("lr")
        self.clock = StepTimer(first_step)

    def add(self, done: int, metrics: dict[str, Tensor]) -> None:
        """Note one step. Reading a value waits for the device, so on a GPU it happens only where a point is due."""
        self.pending.append((done, metrics))
        is_due = done == 1 or done % self.every == 0 or done == self.plan.num_steps
        if is_due or all(value.device.type == "cpu" for value in metrics.values()):
            values = self.drain()
            if is_due:
                self._log(done, values)

    def drain(self) -> dict[str, float]:
        """The latest step's values, after all since the last look were found to be numbers.

        Raises:
            TrainingError: one was none.
        """
        values: dict[str, float] = {}
        for done, metrics in self.pending:
            values = {f"train/{name}": tensor.item() for name, tensor in metrics.items()}
            for name, value in values.items():
                if not math.isfinite(value):
                    self.journal.metrics(done, values)
                    raise TrainingError(
                        f"{name}={value} at step {done} is no finite number; start another run with a lower optimizer.lr, "
                        "with grad_clip_norm or with schedule.warmup_steps"
                    )
        self.pending.clear()
        return values

    def paused(self) -> StepTimer:
        """A context whose time is not counted as training; losses are looked at before anything is saved."""
        self.drain()
        return self.clock

    def _log(self, done: int, values: dict[str, float]) -> None:
        if self.learning_rate is not None:
            values["train/learning_rate"] = self.learning_rate * self.schedule.factor(done - 1, self.plan.num_steps)
        step_time_s, wait_fraction = self.clock.lap(done)
        values["perf/step_time_ms"] = step_time_s * 1e3
        values["perf/data_wait_fraction"] = wait_fraction
        values["perf/samples_per_s"] = self.plan.batch_size_global / step_time_s
        if self.tokens:
            values["perf/tokens_per_s"] = self.tokens * values["perf/samples_per_s"]
        self.journal.metrics(done, {**values, **self.usage(done, step_time_s)})


class StepTimer:
    """Seconds of a training step, with evaluations and checkpoints left out, and how much of them the data took."""

    def __init__(self, first_step: int, now: Callable[[], float] = time.perf_counter) -> None:
        """
        Args:
            first_step: steps that were done before.
            now: seconds that only rise.
        """
        self.now = now
        self.last_done = first_step
        self.last_time = now()
        self.entered = self.waited_s = 0.0

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; the time until each is there counts as waiting, whoever makes it."""
        stream, now = iter(batches), self.now
        while True:
            asked = now()
            try:
                batch = next(stream)
            except StopIteration:
                return
            self.waited_s += now() - asked
            yield batch

    def lap(self, done: int) -> tuple[float, float]:
        """Seconds of a step, the mean since the last call, and the share of them that training waited for batches."""
        now = self.now()
        passed_s = now - self.last_time
        found = passed_s / (done - self.last_done), self.waited_s / passed_s
        self.last_time, self.last_done, self.waited_s = now, done, 0.0
        return found

    def __enter__(self) -> None:
        self.entered = self.now()

    def __exit__(self, *_: object) -> None:
        self.last_time += self.now() - self.entered
