"""Many trials, and workers that start and are killed at random, from a fixed seed."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from experiments.run import journal
from tests.support.variants import IS_LONG
from tests.support.workers import Worker, kill_worker, make_sweep, read_entries, start_worker

NUM_TRIALS, NUM_WORKERS = (200, 16) if IS_LONG else (90, 8)


@pytest.mark.slow
def test_every_trial_ends_exactly_once_if_workers_die(tmp_path: Path) -> None:
    generator = random.Random(20161)
    sweep = make_sweep(
        tmp_path, [{"optimizer.lr": 0.001 * (number + 1)} for number in range(NUM_TRIALS)], max_attempts=50
    )
    workers: list[Worker] = []
    killed = started = 0
    try:
        while any(entry.state in ("pending", "running") for entry in read_entries(sweep)):
            workers = [worker for worker in workers if worker.poll() is None]
            if len(workers) < (4 if started < NUM_WORKERS else 2):  # few at the same time
                workers.append(start_worker(sweep, f"w{started}"))
                started += 1
            time.sleep(generator.uniform(0.5, 1.5))
            if started < NUM_WORKERS and workers:
                generator.choice(workers).send_signal(
                    generator.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
                )
                killed += 1
    finally:
        for worker in workers:
            kill_worker(worker)
    assert killed >= NUM_WORKERS // 2
    assert {entry.state for entry in read_entries(sweep)} == {"finished"}
    lines = [line for line in sweep.ledger().path.read_text().splitlines() if '"state":"finished"' in line]
    assert len(lines) == NUM_TRIALS
    for entry in read_entries(sweep):
        events = [event for event in journal.replay(sweep.folder / entry.id) if event["event"] == "metrics"]
        steps = [event["step"] for event in events if "val/accuracy_top1" in event["metrics"]]
        assert steps == [20, 40], entry
