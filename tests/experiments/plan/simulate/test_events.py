from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from experiments.plan.simulate.events import Queue, SharedResource, SimulatedClock


def ends(thing: Queue | SharedResource, arrivals: list[tuple[float, float]]) -> list[float]:
    """When pieces of work end, given their arrival times."""
    clock, end_s = thing.clock, [0.0] * len(arrivals)

    def end(number: int) -> None:
        end_s[number] = clock.now_s

    for number, (at_s, work) in enumerate(arrivals):
        clock.after(at_s, partial(thing.take, work, partial(end, number)))
    clock.run(lambda: False)
    return end_s


def test_a_queue_serves_in_the_order_of_arrival() -> None:
    assert ends(Queue(SimulatedClock()), [(0.0, 2.0), (1.0, 3.0), (7.0, 1.0)]) == [2.0, 5.0, 8.0]


def test_a_resource_is_shared_evenly() -> None:
    # Alone for a second, then two with a half each: the first has 1 of 2 left, which takes 2 s; the second then 1 of 2 alone.
    assert ends(SharedResource(SimulatedClock(), 1.0, 1.0), [(0.0, 2.0), (1.0, 2.0)]) == pytest.approx([3.0, 4.0])


def test_one_piece_is_limited_to_its_maximum_rate() -> None:
    assert ends(SharedResource(SimulatedClock(), 4.0, 1.0), [(0.0, 2.0), (0.0, 3.0)]) == pytest.approx([2.0, 3.0])


def test_equal_pieces_end_together() -> None:
    assert ends(SharedResource(SimulatedClock(), 2.0, 1.0), [(0.0, 1.0)] * 5) == pytest.approx([2.5] * 5)


def test_a_queue_shares_cores_with_other_work() -> None:
    clock = SimulatedClock()
    cores = SharedResource(clock, 1.0, 1.0)
    clock.after(0.0, partial(cores.take, 5.0, lambda: None))
    assert ends(Queue(clock, cores), [(0.0, 1.0), (0.0, 1.0)]) == pytest.approx([2.0, 4.0])


@pytest.mark.parametrize("kind", ["queue", "shared"])
def test_littles_law_holds(kind: str) -> None:
    """Mean number inside = arrivals a second x mean time inside. Source: Little 1961, doi:10.1287/opre.9.3.383."""
    rng, clock = np.random.default_rng(0), SimulatedClock()
    thing: Queue | SharedResource = Queue(clock) if kind == "queue" else SharedResource(clock, 1.0, 1.0)
    at_s = np.cumsum(rng.exponential(1.0, 3000))
    result = ends(thing, list(zip(at_s.tolist(), rng.exponential(0.7, 3000).tolist(), strict=True)))
    inside_s = np.array(result) - at_s
    assert thing.use.left == 3000
    assert thing.use.inside == 0
    assert thing.use.present_s == pytest.approx(inside_s.sum())
    # A queue with one server, and one that is shared, have the same mean with exponential times: 0.7 / (1 - 0.7).
    assert inside_s.mean() == pytest.approx(0.7 / 0.3, rel=0.15)
    assert thing.use.busy_s / clock.now_s == pytest.approx(0.7, rel=0.05)
