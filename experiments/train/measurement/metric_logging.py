"""Logs training metrics every few steps, and checks the loss of every step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from experiments.core.errors import TrainingError
from experiments.plan.plan import Plan
from experiments.run.journal import Journal
from modules.optimizer.base import LearningRate

T = TypeVar("T")


class MetricLogger:
    """Logs the metrics of training steps."""

    def __init__(
        self, config: Mapping[str, Any], plan: Plan, rates: Sequence[LearningRate], journal: Journal, first_step: int,
        tokens: int, further_metrics: Callable[[int, float], Mapping[str, float]],
    ) -> None:  # fmt: skip
        """
        Args:
            config: of the trial.
            plan: states the length of the training.
            rates: the learning rates.
            journal: gets the metrics.
            first_step: steps that were done before.
            tokens: number of tokens in the targets of one example; 0 if they are not a sequence.
            further_metrics: returns further metrics for a step, from its number and its duration in seconds.
        """
        self.further_metrics = further_metrics
        self.plan, self.learning_rates, self.journal, self.tokens = plan, rates, journal, tokens
        self.pending: list[tuple[int, dict[str, Tensor]]] = []
        self.latest: dict[str, float] = {}
        """The latest value of each metric since the last log: a phase of a task does not run in every step."""
        self.last_names: set[str] = set()
        """Metrics of the last step."""
        self.every = int(config["log_every_steps"])
        self.timer = StepTimer(first_step)

    def add(self, done: int, metrics: dict[str, Tensor]) -> None:
        """Add one step. Reading a value waits for the device, so on a GPU this happens only when the step is logged."""
        self.pending.append((done, metrics))
        is_due = done == 1 or done % self.every == 0 or done == self.plan.num_steps
        if is_due or all(value.device.type == "cpu" for value in metrics.values()):
            self.drain()
            if is_due:
                self._log(done)

    def drain(self) -> None:
        """Check the values of all new steps.

        Raises:
            TrainingError: a value is not a finite number.
        """
        for done, metrics in self.pending:
            values = {f"train/{name}": tensor.item() for name, tensor in metrics.items()}
            for name, value in values.items():
                if not math.isfinite(value):
                    self.journal.metrics(done, values)
                    raise TrainingError(
                        f"{name}={value} at step {done} is not a finite number; start another run with a lower optimizer.lr, "
                        "with grad_clip_norm or with schedule.warmup_steps"
                    )
            self.latest |= values
            self.last_names = {*values}
        self.pending.clear()

    def find_carried(self) -> dict[str, float]:
        """Values for the next log of phases that did not run in the last step; a checkpoint keeps them."""
        self.drain()
        return {name: value for name, value in self.latest.items() if name not in self.last_names}

    def paused(self) -> StepTimer:
        """Check the losses, and return a context whose time does not count as training."""
        self.drain()
        return self.timer

    def _log(self, done: int) -> None:
        values, self.latest = self.latest, {}
        for rate in self.learning_rates:
            values[f"train/{rate.name}"] = rate.at(done - 1, self.plan.num_steps)
        step_time_s, wait_fraction = self.timer.measure(done)
        values["perf/step_time_ms"] = step_time_s * 1e3
        values["perf/data_wait_fraction"] = wait_fraction
        values["perf/samples_per_s"] = self.plan.batch_size_global / step_time_s
        if self.tokens:
            values["perf/tokens_per_s"] = self.tokens * values["perf/samples_per_s"]
        self.journal.metrics(done, {**values, **self.further_metrics(done, step_time_s)})


class StepTimer:
    """Measures the duration of training steps without evaluations and checkpoints, and the fraction spent waiting for data."""

    def __init__(self, first_step: int, now: Callable[[], float] = time.perf_counter) -> None:
        """
        Args:
            first_step: steps that were done before.
            now: a monotonic clock in seconds.
        """
        self.now = now
        self.last_done = first_step
        self.last_time = now()
        self.entered = self.waited_s = 0.0

    def time_waits(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the same batches; the time until each is ready counts as waiting."""
        stream, now = iter(batches), self.now
        while True:
            start = now()
            try:
                batch = next(stream)
            except StopIteration:
                return
            self.waited_s += now() - start
            yield batch

    def measure(self, done: int) -> tuple[float, float]:
        """Return the mean duration of a step in seconds since the last call, and the fraction spent waiting for batches."""
        now = self.now()
        passed_s = now - self.last_time
        measured = passed_s / (done - self.last_done), self.waited_s / passed_s
        self.last_time, self.last_done, self.waited_s = now, done, 0.0
        return measured

    def __enter__(self) -> None:
        self.entered = self.now()

    def __exit__(self, *_: object) -> None:
        self.last_time += self.now() - self.entered
