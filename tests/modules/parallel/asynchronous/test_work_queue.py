"""Which chunk goes to whom, without a process: the rules of every mode."""

from __future__ import annotations

from modules.parallel.asynchronous.work_queue import WorkQueue


def begun(hand: WorkQueue, *pushers: int) -> list[int | None]:
    """Numbers of the chunks that pushers get, one after the other; None of one that waits."""
    chunks = [hand.next(pusher) for pusher in pushers]
    return [None if chunk is None else chunk.number for chunk in chunks]


def hand_out(num_pushers: int, **how: object) -> WorkQueue:
    hand = WorkQueue(**{"per_round": 2, "policy": "each", "max_staleness": None, "limit": 100, **how})  # type: ignore[arg-type]
    for pusher in range(num_pushers):
        hand.join(pusher)
    return hand


def test_each_request_gets_the_next_chunk_and_a_slow_pusher_delays_no_other() -> None:
    hand = hand_out(2)
    assert begun(hand, 0, 1) == [0, 1]
    for expected in range(2, 9):
        hand.report(1, 1, accepted=True)
        assert begun(hand, 1) == [expected]
    assert hand.done == 7


def test_what_a_dead_replica_had_goes_to_another_before_anything_new() -> None:
    hand = hand_out(3)
    assert begun(hand, 0, 1, 2) == [0, 1, 2]
    hand.leave(1)
    hand.report(0, 1, accepted=True)
    assert begun(hand, 0, 0) == [1, 3]
    hand.join(1)
    assert begun(hand, 1) == [4]


def test_a_bound_on_staleness_holds_the_fast_one_until_the_slow_one_has_done_its_own_or_died() -> None:
    hand = hand_out(2, max_staleness=2)
    assert begun(hand, 0, 1) == [0, 1]
    hand.report(1, 1, accepted=True)
    assert begun(hand, 1) == [2]
    hand.report(1, 1, accepted=True)
    assert begun(hand, 1) == [None]
    hand.leave(0)
    assert begun(hand, 1) == [0]


def test_in_step_a_pusher_takes_over_chunks_of_dead_pushers_only() -> None:
    hand = hand_out(2, policy="round", max_staleness=0)
    assert begun(hand, 0) == [0]
    hand.report(0, 1, accepted=True)
    assert begun(hand, 0, 1) == [None, 1]
    hand.leave(1)
    assert begun(hand, 0) == [1]
    hand.report(0, 1, accepted=True)
    assert hand.done == 2
    assert begun(hand, 0, 0) == [2, 3], "alone, it does the whole round"


def test_of_backed_up_replicas_the_first_make_a_round_and_what_was_dropped_is_done_again() -> None:
    hand = hand_out(3, policy="first", max_staleness=0)
    assert begun(hand, 0, 1, 2) == [0, 1, 2]
    hand.report(2, 1, accepted=True)
    hand.report(1, 1, accepted=True)
    assert hand.done == 2
    chunk = hand.next(1)
    assert chunk is not None
    assert (chunk.number, chunk.update) == (3, 1)
    hand.report(0, 1, accepted=False)
    assert begun(hand, 0) == [0]


def test_until_the_replicas_meet_nothing_beyond_is_begun_and_a_stop_ends_with_what_was() -> None:
    hand = hand_out(2, limit=2, first_round=1)
    assert begun(hand, 0, 1, 0) == [2, 3, None]
    hand.limit = 9
    assert begun(hand, 0) == [4]
    assert hand.stop(1) == 3
    assert begun(hand, 1, 1) == [5, None]


def test_a_warm_start_is_the_first_replicas_alone() -> None:
    hand = hand_out(2, warm_start_steps=1, max_staleness=1)
    assert begun(hand, 1, 0) == [None, 0]
    hand.report(0, 1, accepted=True)
    assert begun(hand, 0) == [1]
    hand.report(0, 1, accepted=True)
    assert begun(hand, 0, 1) == [2, 3]
