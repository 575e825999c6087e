"""Many trials, and workers that start and die at random: what is random follows from one seed."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from experiments.run import journal
from tests.support.variants import IS_LONG
from tests.support.workers import Worker, end, entries, make_sweep, start_worker

NUM_TRIALS, NUM_WORKERS = (200, 16) if IS_LONG else (90, 8)
MOST_S = 240


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_trial_ends_exactly_once_whoever_dies(tmp_path: Path) -> None:
    chance = random.Random(20161)
    sweep = make_sweep(
        tmp_path, [{"optimizer.lr": 0.001 * (number + 1)} for number in range(NUM_TRIALS)], max_attempts=50
    )
    workers: list[Worker] = []
    deadline, killed, started = time.monotonic() + MOST_S, 0, 0
    try:
        while any(entry.state in ("pending", "running") for entry in entries(sweep)):
            assert time.monotonic() < deadline, {entry.state for entry in entries(sweep)}
            workers = [worker for worker in workers if worker.poll() is None]
            if len(workers) < (4 if started < NUM_WORKERS else 2):  # all of them live and die, few of them at once
                workers.append(start_worker(sweep, f"w{started}"))
                started += 1
            time.sleep(chance.uniform(0.5, 1.5))
            if started < NUM_WORKERS and workers:
                chance.choice(workers).send_signal(chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
                killed += 1
    finally:
        for worker in workers:
            end(worker)
    assert killed >= NUM_WORKERS // 2
    assert {entry.state for entry in entries(sweep)} == {"finished"}
    lines = [line for line in sweep.ledger().path.read_text().splitlines() if '"state":"finished"' in line]
    assert len(lines) == NUM_TRIALS
    for entry in entries(sweep):
        events = [event for event in journal.replay(sweep.folder / entry.id) if event["event"] == "metrics"]
        steps = [event["step"] for event in events if "val/accuracy_top1" in event["metrics"]]
        assert steps == [20, 40], entry
