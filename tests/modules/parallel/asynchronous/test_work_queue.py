"""Which replica gets which chunk, in every mode; without processes."""

from __future__ import annotations

from modules.parallel.asynchronous.work_queue import WorkQueue


def take_chunks(queue: WorkQueue, *pushers: int) -> list[int | None]:
    """Numbers of the chunks that the pushers get, in order; None for a pusher that must wait."""
    chunks = [queue.next(pusher) for pusher in pushers]
    return [None if chunk is None else chunk.number for chunk in chunks]


def make_queue(num_pushers: int, **settings: object) -> WorkQueue:
    queue = WorkQueue(**{"per_round": 2, "policy": "each", "max_staleness": None, "limit": 100, **settings})  # type: ignore[arg-type]
    for pusher in range(num_pushers):
        queue.join(pusher)
    return queue


def test_each_request_gets_the_next_chunk_and_a_slow_pusher_does_not_delay_others() -> None:
    queue = make_queue(2)
    assert take_chunks(queue, 0, 1) == [0, 1]
    for expected in range(2, 9):
        queue.report(1, 1, accepted=True)
        assert take_chunks(queue, 1) == [expected]
    assert queue.done == 7


def test_chunks_of_a_dead_replica_go_to_another_before_new_chunks() -> None:
    queue = make_queue(3)
    assert take_chunks(queue, 0, 1, 2) == [0, 1, 2]
    queue.leave(1)
    queue.report(0, 1, accepted=True)
    assert take_chunks(queue, 0, 0) == [1, 3]
    queue.join(1)
    assert take_chunks(queue, 1) == [4]


def test_max_staleness_makes_a_fast_pusher_wait_until_the_slow_one_reports_or_dies() -> None:
    queue = make_queue(2, max_staleness=2)
    assert take_chunks(queue, 0, 1) == [0, 1]
    queue.report(1, 1, accepted=True)
    assert take_chunks(queue, 1) == [2]
    queue.report(1, 1, accepted=True)
    assert take_chunks(queue, 1) == [None]
    queue.leave(0)
    assert take_chunks(queue, 1) == [0]


def test_synchronous_pushers_take_over_only_chunks_of_dead_pushers() -> None:
    queue = make_queue(2, policy="round", max_staleness=0)
    assert take_chunks(queue, 0) == [0]
    queue.report(0, 1, accepted=True)
    assert take_chunks(queue, 0, 1) == [None, 1]
    queue.leave(1)
    assert take_chunks(queue, 0) == [1]
    queue.report(0, 1, accepted=True)
    assert queue.done == 2
    assert take_chunks(queue, 0, 0) == [2, 3], "the last pusher does the whole round"


def test_with_backup_workers_a_round_takes_the_first_gradients_and_repeats_dropped_chunks() -> None:
    queue = make_queue(3, policy="first", max_staleness=0)
    assert take_chunks(queue, 0, 1, 2) == [0, 1, 2]
    queue.report(2, 1, accepted=True)
    queue.report(1, 1, accepted=True)
    assert queue.done == 2
    chunk = queue.next(1)
    assert chunk is not None
    assert (chunk.number, chunk.update) == (3, 1)
    queue.report(0, 1, accepted=False)
    assert take_chunks(queue, 0) == [0]


def test_no_chunk_starts_beyond_the_limit_and_a_stop_ends_after_started_chunks() -> None:
    queue = make_queue(2, limit=2, first_round=1)
    assert take_chunks(queue, 0, 1, 0) == [2, 3, None]
    queue.limit = 9
    assert take_chunks(queue, 0) == [4]
    assert queue.stop(1) == 3
    assert take_chunks(queue, 1, 1) == [5, None]


def test_only_the_first_replica_works_during_a_warm_start() -> None:
    queue = make_queue(2, warm_start_steps=1, max_staleness=1)
    assert take_chunks(queue, 1, 0) == [None, 0]
    queue.report(0, 1, accepted=True)
    assert take_chunks(queue, 0) == [1]
    queue.report(0, 1, accepted=True)
    assert take_chunks(queue, 0, 1) == [2, 3]
