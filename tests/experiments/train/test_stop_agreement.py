from __future__ import annotations

from typing import Any

import pytest

from experiments.train.stop_agreement import StopConsensus


class Ranks:
    """Answers for three ranks, of which this is the second."""

    def __init__(self) -> None:
        self.others = (5.0, 1.0)
        self.asked: list[float] = []

    def gather(self, value: float) -> list[float]:
        self.asked.append(value)
        return [self.others[0], value, self.others[1]]


def agreement(engine: Any, reasons: list[str | None], world: int) -> StopConsensus:
    return StopConsensus(engine, lambda: reasons[0], world, first_step=10)


def test_one_process_alone_asks_nobody() -> None:
    ranks = Ranks()
    found = agreement(ranks, ["SIGTERM"], world=1)
    assert found.reason(11) == "SIGTERM"
    assert ranks.asked == []


def test_ranks_ask_as_often_as_the_first_of_them_says() -> None:
    ranks = Ranks()
    found = agreement(ranks, [None], world=3)
    assert [found.reason(step) for step in range(11, 17)] == [None] * 6
    assert len(ranks.asked) == 2  # after steps 11 and 16
    assert min(ranks.asked) >= 1


@pytest.mark.parametrize(
    ("own", "others", "told"),
    [
        ("SIGTERM", (1.0, 1.0), "SIGTERM"),
        (None, (-1.0, 1.0), "rank 0 was asked to stop"),
        (None, (3.0, -1.0), "rank 2 was asked to stop"),
    ],
)
def test_one_that_is_asked_stops_all(own: str | None, others: tuple[float, float], told: str) -> None:
    ranks = Ranks()
    ranks.others = others
    assert agreement(ranks, [own], world=3).reason(11) == told
    assert (ranks.asked[0] < 0) == (own is not None)
