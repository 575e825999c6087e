"""The step timer, with a clock that the test sets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from experiments.train.measurement.metric_logging import StepTimer


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
