from __future__ import annotations

from typing import Any

import pytest

from experiments.train.stop_agreement import StopConsensus


class Ranks:
    """Simulates three ranks, of which this is the second."""

    def __init__(self) -> None:
        self.others = (5.0, 1.0)
        self.sent: list[float] = []

    def gather(self, value: float) -> list[float]:
        self.sent.append(value)
        return [self.others[0], value, self.others[1]]


def make_consensus(engine: Any, reasons: list[str | None], world_size: int) -> StopConsensus:
    return StopConsensus(engine, lambda: reasons[0], world_size, first_step=10)


def test_a_single_process_sends_no_message() -> None:
    ranks = Ranks()
    consensus = make_consensus(ranks, ["SIGTERM"], world_size=1)
    assert consensus.reason(11) == "SIGTERM"
    assert ranks.sent == []


def test_rank_0_decides_how_often_the_ranks_exchange_requests() -> None:
    ranks = Ranks()
    consensus = make_consensus(ranks, [None], world_size=3)
    assert [consensus.reason(step) for step in range(11, 17)] == [None] * 6
    assert len(ranks.sent) == 2  # after steps 11 and 16
    assert min(ranks.sent) >= 1


@pytest.mark.parametrize(
    ("own", "others", "reason"),
    [
        ("SIGTERM", (1.0, 1.0), "SIGTERM"),
        (None, (-1.0, 1.0), "rank 0 was asked to stop"),
        (None, (3.0, -1.0), "rank 2 was asked to stop"),
    ],
)
def test_a_request_to_one_rank_stops_all_ranks(own: str | None, others: tuple[float, float], reason: str) -> None:
    ranks = Ranks()
    ranks.others = others
    assert make_consensus(ranks, [own], world_size=3).reason(11) == reason
    assert (ranks.sent[0] < 0) == (own is not None)
