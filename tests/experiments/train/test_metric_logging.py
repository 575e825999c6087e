"""The watch on a training's time, with a clock that goes only when it is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from experiments.train.metric_logging import StepTimer


class Told:
    """A clock that stands still between what is done."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time

    def batches(self, *takes_s: float) -> Iterator[int]:
        """A data set that takes so long for each of its batches."""
        for number, each_s in enumerate(takes_s):
            self.time += each_s
            yield number


def test_the_share_of_waiting_is_that_of_the_time_until_batches_are_there() -> None:
    told = Told()
    clock = StepTimer(first_step=4, now=told)
    laps = []
    for step, batch in enumerate(clock.waiting(told.batches(3.0, 1.0, 0.0, 2.0)), start=4):
        assert batch == step - 4
        told.time += 1.0  # the step itself
        if step in (5, 6, 7):
            laps.append(clock.lap(step + 1))
    assert laps == [(3.0, 4 / 6), (1.0, 0.0), (3.0, 2 / 3)]


def test_pauses_count_neither_as_training_nor_as_waiting() -> None:
    told = Told()
    clock = StepTimer(first_step=0, now=told)
    batches = clock.waiting(told.batches(1.0, 2.0))
    next(batches)
    with clock:
        told.time += 50.0
    told.time += 1.0
    next(batches)
    assert clock.lap(2) == (2.0, 3 / 4)
    assert list(batches) == []


def test_what_a_data_set_raises_comes_through() -> None:
    def broken() -> Iterator[int]:
        yield 0
        raise ValueError("no such photo")

    batches = StepTimer(0).waiting(broken())
    assert next(batches) == 0
    with pytest.raises(ValueError, match="no such photo"):
        next(batches)
