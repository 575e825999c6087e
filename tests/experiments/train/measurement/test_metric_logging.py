"""The metrics of steps, and the step timer with a clock that the test sets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch

from experiments.train.measurement.metric_logging import MetricLogger, StepTimer


class FakeClock:
    """A clock that stands still until the test advances it."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time

    def batches(self, *takes_s: float) -> Iterator[int]:
        """Yield batches, each of which takes the given time."""
        for number, each_s in enumerate(takes_s):
            self.time += each_s
            yield number


def test_waiting_is_the_fraction_of_time_until_a_batch_is_ready() -> None:
    clock = FakeClock()
    timer = StepTimer(first_step=4, now=clock)
    laps = []
    for step, batch in enumerate(timer.time_waits(clock.batches(3.0, 1.0, 0.0, 2.0)), start=4):
        assert batch == step - 4
        clock.time += 1.0  # the step itself
        if step in (5, 6, 7):
            laps.append(timer.measure(step + 1))
    assert laps == [(3.0, 4 / 6), (1.0, 0.0), (3.0, 2 / 3)]


def test_pauses_count_neither_as_training_nor_as_waiting() -> None:
    clock = FakeClock()
    timer = StepTimer(first_step=0, now=clock)
    batches = timer.time_waits(clock.batches(1.0, 2.0))
    next(batches)
    with timer:
        clock.time += 50.0
    clock.time += 1.0
    next(batches)
    assert timer.measure(2) == (2.0, 3 / 4)
    assert list(batches) == []


def test_an_exception_of_the_data_set_is_passed_on() -> None:
    def broken() -> Iterator[int]:
        yield 0
        raise ValueError("no such image")

    batches = StepTimer(0).time_waits(broken())
    assert next(batches) == 0
    with pytest.raises(ValueError, match="no such image"):
        next(batches)


class Recorder:
    """A journal and a plan of 9 steps."""

    num_steps, batch_size_global = 9, 4

    def __init__(self) -> None:
        self.losses: list[tuple[int, dict[str, float]]] = []

    def metrics(self, done: int, values: dict[str, float]) -> None:
        self.losses.append((done, {name: value for name, value in values.items() if name.startswith("train/")}))


def test_a_phase_that_does_not_run_in_a_logged_step_is_logged_with_its_latest_value() -> None:
    recorder = cast(Any, Recorder())
    config = {"log_every_steps": 4}

    def make_logger(first_step: int) -> MetricLogger:
        return MetricLogger(config, recorder, [], recorder, first_step, 0, lambda done, step_time_s: {})

    logger = make_logger(0)
    for step in range(9):
        if step == 6:  # a checkpoint and a resume, after which the actor does not run before the next log
            carried = logger.find_carried()
            assert carried == {"train/actor": 14.0}
            logger = make_logger(6)
            logger.latest |= carried
        metrics = {"critic": torch.tensor(float(step))}
        logger.add(step + 1, metrics | ({"actor": torch.tensor(10.0 + step)} if step in (0, 2, 4, 8) else {}))
    assert recorder.losses == [
        (1, {"train/critic": 0.0, "train/actor": 10.0}),
        (4, {"train/critic": 3.0, "train/actor": 12.0}),
        (8, {"train/critic": 7.0, "train/actor": 14.0}),
        (9, {"train/critic": 8.0, "train/actor": 18.0}),
    ]
