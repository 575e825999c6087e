"""The state of a sweep, and the detection of lost workers, from ledgers and journals written by the test."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments.sweep.status import progress
from experiments.sweep.status.progress import ProgressReader, read_progress
from experiments.sweep.sweep import Sweep
from experiments.sweep.worker.reaper import reap
from launchers.base import WorkerPool
from launchers.local import Local
from tests.support.ledgers import (
    age_file,
    attempt_folder,
    claim_trial,
    end_trial,
    finish_trial,
    ids,
    log_metric,
    make_idle_sweep,
    read_entry,
    shift_events,
)

RATES = [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.01}, {"optimizer.lr": 0.001}]


class Scheduler:
    """An executor that reports given lost and queued workers, and records its queries."""

    def __init__(self, lost: dict[str, str] | None = None, queued: int = 0) -> None:
        self.lost, self.queued = lost or {}, queued
        self.queries: list[list[str]] = []

    def find_lost(self, jobs: Sequence[str]) -> dict[str, str]:
        self.queries.append(list(jobs))
        return {job: reason for job, reason in self.lost.items() if job in jobs}

    def count_pending(self, jobs: Sequence[str]) -> int:
        return self.queued

    def cancel(self, jobs: Sequence[str]) -> None:
        raise NotImplementedError

    def submit(self, pool: WorkerPool) -> str:
        raise NotImplementedError

    def find_jobs(self, pool: WorkerPool) -> list[str]:
        raise NotImplementedError

    def count_workers(self, pool: WorkerPool) -> int:
        raise NotImplementedError

    def describe(self, pool: WorkerPool) -> str:
        raise NotImplementedError


def read_state(sweep: Sweep) -> str:
    return read_progress(sweep, sweep.ledger()).state


def test_trials_are_counted_by_state_and_failures_by_class(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", [{"optimizer.lr": rate} for rate in range(7)])
    finish_trial(sweep, ids(7)[0], 0.5)
    for trial in ids(7)[1:5]:
        claim_trial(sweep, trial)
    end_trial(sweep, ids(7)[1], "pruned", value=0.1, step=20)
    end_trial(sweep, ids(7)[2], "failed", failure="exception", reason="KeyError: 'x'", step=3, wasted=True)
    end_trial(sweep, ids(7)[3], "failed", failure="out of host memory", wasted=True)
    ledger = sweep.ledger()
    with ledger.locked():
        ledger.cancel([ids(7)[6]], "cancelled by me")
    result = read_progress(sweep, ledger)
    assert (result.state, result.total, result.done) == ("running", 7, 2)
    assert result.counts == {"failed": 2, "running": 1, "pending": 1, "finished": 1, "pruned": 1, "cancelled": 1}
    assert result.failed == {"exception": 1, "out of host memory": 1}
    assert [row.state for row in result.rows] == [
        "failed", "failed", "running", "finished", "pruned", "pending", "cancelled",
    ]  # fmt: skip
    assert (result.workers, result.queued) == (1, None)


@pytest.mark.parametrize(("mode", "point"), [("max", 1), ("min", 0)])
def test_best_point_has_finished_all_seeds(tmp_path: Path, mode: str, point: int) -> None:
    sweep = make_idle_sweep(tmp_path, "s", RATES, seeds=2, mode=mode)
    values = {0: 0.2, 1: 0.4, 2: 0.9, 3: 0.1, 4: 5.0 if mode == "max" else -5.0}
    for number, value in values.items():
        finish_trial(sweep, ids(6)[number], value)
    best = read_progress(sweep, sweep.ledger()).best
    assert best is not None
    assert (best.point, best.values, best.trials) == (point, RATES[point], tuple(ids(6)[2 * point : 2 * point + 2]))
    assert best.value == pytest.approx(0.5 if point else 0.3)


def test_nan_is_never_the_best_value(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", RATES)
    finish_trial(sweep, ids(3)[0], math.nan)
    assert read_progress(sweep, sweep.ledger()).best is None
    finish_trial(sweep, ids(3)[1], -3.0)
    best = read_progress(sweep, sweep.ledger()).best
    assert best is not None
    assert best.value == -3.0
    assert [row.id for row in read_progress(sweep, sweep.ledger()).rows] == [ids(3)[1], ids(3)[0], ids(3)[2]]


def test_running_trial_is_read_incrementally_from_its_journal(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", RATES)
    claim_trial(sweep, ids(3)[0])
    reader = ProgressReader(sweep, sweep.ledger())
    assert (reader.read().rows[0].step, reader.read().rows[0].last) == (0, None)
    log_metric(sweep, ids(3)[0], {20: 0.4, 40: 0.7, 60: 0.6})
    row = reader.read().rows[0]
    assert (row.step, row.num_steps, row.last, row.value) == (60, 200, 0.6, 0.7)
    path = attempt_folder(sweep, ids(3)[0]) / "journal.jsonl"
    with path.open("a") as file:
        file.write('{"event":"metrics","time":1,"step":80,"metrics":{"val/accuracy_top1":0.9')
    assert reader.read().rows[0].value == 0.7
    with path.open("a") as file:
        file.write('}}\nnot json\n["nor", "a map"]\n')
    assert (reader.read().rows[0].step, reader.read().rows[0].value) == (80, 0.9)


def test_read_events_and_ended_trials_are_not_read_again(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", RATES)
    for trial in ids(3)[:2]:
        claim_trial(sweep, trial)
        log_metric(sweep, trial, {20: 0.4})
    reader = ProgressReader(sweep, sweep.ledger())
    reader.read()
    path = attempt_folder(sweep, ids(3)[0]) / "journal.jsonl"
    path.write_bytes(b"x" * path.stat().st_size)  # of the same length, with no new events
    assert reader.read().rows[0].value == 0.4
    end_trial(sweep, ids(3)[1], "finished", value=0.5, step=200)
    ended = attempt_folder(sweep, ids(3)[1]) / "journal.jsonl"
    ended.unlink()
    ended.mkdir()  # cannot be read as a file
    assert {row.id: row.value for row in reader.read().rows} == {ids(3)[0]: 0.4, ids(3)[1]: 0.5, ids(3)[2]: None}


def test_best_value_of_an_interrupted_trial_includes_earlier_attempts(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", RATES)
    claim_trial(sweep, ids(3)[0])
    log_metric(sweep, ids(3)[0], {100: 0.8})
    end_trial(sweep, ids(3)[0], "pending", value=0.8, step=100, failure="preempted", reason="SIGTERM")
    row = read_progress(sweep, sweep.ledger()).rows[0]
    assert (row.id, row.state, row.step, row.failure) == (ids(3)[0], "pending", 100, "preempted")
    claim_trial(sweep, ids(3)[0])
    log_metric(sweep, ids(3)[0], {120: 0.6})
    row = read_progress(sweep, sweep.ledger()).rows[0]
    assert (row.attempt, row.step, row.last, row.value, row.failure) == (2, 120, 0.6, 0.8, None)


def test_device_hours_and_the_budget_are_counted(tmp_path: Path) -> None:
    budget = {"max_points": 3, "wall_h": None, "device_h": 100}
    sweep = make_idle_sweep(tmp_path, "s", RATES, budget=budget)
    claim_trial(sweep, ids(3)[0])
    claim_trial(sweep, ids(3)[1])
    shift_events(sweep, 7200)
    end_trial(sweep, ids(3)[0], "failed", failure="exception", wasted=True)
    result = read_progress(sweep, sweep.ledger())
    assert result.used_h == pytest.approx(8, abs=0.01)  # two hours of two devices, twice
    assert result.wasted_h == pytest.approx(4, abs=0.01)
    assert result.elapsed_s == pytest.approx(7200, abs=60)
    assert {name: share.of for name, share in result.budget.items()} == {"max_points": 3, "device_h": 100}
    assert result.budget["max_points"].spent == 3
    assert result.budget["device_h"].spent == pytest.approx(8, abs=0.01)


def test_time_left_uses_the_pace_first_and_then_the_duration_of_ended_trials(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", [{"optimizer.lr": rate} for rate in range(5)])
    assert read_progress(sweep, sweep.ledger()).left_s is None
    for trial in ids(5)[:2]:
        claim_trial(sweep, trial)
    assert read_progress(sweep, sweep.ledger()).left_s is None  # no data yet
    log_metric(sweep, ids(5)[0], {50: 0.1})
    shift_events(sweep, 100)
    # One trial is a quarter done after 100 s, so a trial takes 400 s: 300 s for each running one, and 3 x 400 s on 2 workers.
    assert read_progress(sweep, sweep.ledger()).left_s == pytest.approx((2 * 300 + 3 * 400) / 2, abs=60)
    end_trial(sweep, ids(5)[0], "finished", value=1.0, step=200)
    result = read_progress(sweep, sweep.ledger())  # one took 100 s, as long as the other has run: 3 more on 1 worker
    assert result.left_s == pytest.approx(300, abs=60)


def test_a_sweep_is_done_failed_cancelled_or_spent(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", RATES[:2])
    assert read_state(sweep) == "pending"
    finish_trial(sweep, ids(2)[0], 0.5)
    ledger = sweep.ledger()
    with ledger.locked():
        ledger.close("sweep.budget.device_h=1 is spent")
    assert (read_state(sweep), read_progress(sweep, ledger).closed) == ("spent", "sweep.budget.device_h=1 is spent")
    with ledger.locked():
        ledger.reopen()
    claim_trial(sweep, ids(2)[1])
    assert read_state(sweep) == "running"
    end_trial(sweep, ids(2)[1], "failed", failure="exception", wasted=True)
    assert read_state(sweep) == "failed"
    with ledger.locked():
        ledger.retry([ids(2)[1]])
        ledger.close("cancelled by me")
    assert read_state(sweep) == "cancelled"
    with ledger.locked():
        ledger.reopen()
    finish_trial(sweep, ids(2)[1], 0.6)
    assert read_state(sweep) == "done"


def test_wall_time_budget_after_the_end_does_not_change_the_state(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", RATES[:1], budget={"max_points": None, "wall_h": 1.0, "device_h": None})
    finish_trial(sweep, ids(1)[0], 0.5)
    shift_events(sweep, 8000)
    assert (read_state(sweep), read_progress(sweep, sweep.ledger()).closed) == ("done", None)


def test_points_not_chosen_yet_are_counted(tmp_path: Path) -> None:
    strategy = {"name": "tpe", "seed": 0, "startup_points": 5}
    budget = {"max_points": 10, "wall_h": None, "device_h": None}
    sweep = make_idle_sweep(tmp_path, "s", RATES, seeds=2, strategy=strategy, budget=budget)
    for trial in ids(6):
        finish_trial(sweep, trial, 0.5)
    result = read_progress(sweep, sweep.ledger())
    assert (result.state, result.done, result.total, result.to_ask) == ("pending", 6, 20, 14)
    ledger = sweep.ledger()
    with ledger.locked():
        ledger.close("cancelled by me")
    result = read_progress(sweep, ledger)
    assert (result.state, result.total, result.to_ask) == ("cancelled", 6, 0)


def test_sweep_is_stalled_if_no_worker_is_left_or_queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_idle_sweep(tmp_path, "s", RATES)
    ledger = sweep.ledger()
    with ledger.locked():
        ledger.record_submission("1234", 2)
    shift_events(sweep, progress.STARTING_S + 1)
    assert read_progress(sweep, sweep.ledger(), Scheduler()).is_stranded
    assert not read_progress(sweep, sweep.ledger(), Scheduler(queued=1)).is_stranded
    assert read_progress(sweep, sweep.ledger(), Scheduler(queued=1)).queued == 1
    (sweep.folder / "workers" / "1234_0.0").mkdir()
    assert not read_progress(sweep, sweep.ledger(), Scheduler()).is_stranded  # the worker is about to start
    assert read_progress(sweep, sweep.ledger(), Scheduler({"1234_0.0": "CANCELLED"})).is_stranded
    claim_trial(sweep, ids(3)[0], "1234_0.0")
    assert not read_progress(
        sweep, sweep.ledger(), Scheduler({"1234_0.0": "CANCELLED"})
    ).is_stranded  # while a trial is claimed
    shift_events(sweep, progress.SILENT_S)
    end_trial(sweep, ids(3)[0], "pending", failure="preempted")
    assert not read_progress(sweep, sweep.ledger(), Scheduler()).is_stranded
    shift_events(sweep, progress.SILENT_S)
    assert read_progress(sweep, sweep.ledger(), Scheduler()).is_stranded  # the worker has been idle for too long


def test_ended_local_workers_are_detected(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", RATES)
    (sweep.folder / "workers" / f"{socket.gethostname()}-abc123-0").mkdir()
    shift_events(sweep, progress.STARTING_S + 1)
    ledger = sweep.ledger()
    assert read_progress(sweep, ledger, Local()).is_stranded


def test_attempt_without_heartbeat_is_ended(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", RATES)
    folders = [claim_trial(sweep, trial, f"w{number}") for number, trial in enumerate(ids(3))]
    log_metric(sweep, ids(3)[0], {20: 0.4, 40: 0.3})
    age_file(folders[0] / "heartbeat", 31)
    age_file(folders[1] / "heartbeat", 25)
    lines = reap(sweep, sweep.ledger(), None)
    assert lines == [
        f"trial {ids(3)[0]}, attempt 1: worker w0 on node7 has sent no heartbeat for 31 s; the trial is pending again"
    ]
    lost = read_entry(sweep, ids(3)[0])
    assert (lost.state, lost.failure, lost.value, lost.step) == ("pending", "node lost", 0.4, 40)
    assert lost.reason == "worker w0 on node7 has sent no heartbeat for 31 s"
    assert lost.wasted_s == lost.used_s == 0  # its last heartbeat is older than the claim
    assert [read_entry(sweep, trial).state for trial in ids(3)[1:]] == ["running", "running"]
    assert reap(sweep, sweep.ledger(), None) == []


def test_heartbeat_of_the_future_counts_from_now(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", RATES)
    heartbeat = claim_trial(sweep, ids(3)[0]) / "heartbeat"
    age_file(heartbeat, -600)  # the clock of the file server was set back
    assert reap(sweep, sweep.ledger(), None) == []
    assert heartbeat.stat().st_mtime < time.time() + 5
    age_file(heartbeat, 31)
    assert len(reap(sweep, sweep.ledger(), None)) == 1


def test_age_of_an_attempt_without_heartbeat_counts_from_its_claim(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", RATES)
    claim_trial(sweep, ids(3)[0], beats=False)
    assert reap(sweep, sweep.ledger(), None) == []
    shift_events(sweep, 31)
    assert len(reap(sweep, sweep.ledger(), None)) == 1


def test_scheduler_is_queried_once_for_all_workers(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", RATES)
    executor = Scheduler({"11_0.0": "NODE_FAIL"})
    assert reap(sweep, sweep.ledger(), executor) == []
    assert executor.queries == []
    for trial, worker in zip(ids(3), ("11_1.0", "11_0.0", "11_1.0"), strict=True):
        claim_trial(sweep, trial, worker)
    lines = reap(sweep, sweep.ledger(), executor)
    assert lines == [
        f"trial {ids(3)[1]}, attempt 1: worker 11_0.0 on node7 is lost: NODE_FAIL; the trial is pending again"
    ]
    assert executor.queries == [["11_0.0", "11_1.0"]]


def test_attempt_with_a_checkpoint_is_not_wasted(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", RATES)
    folder = claim_trial(sweep, ids(3)[0])
    (sweep.folder / ids(3)[0] / "checkpoints" / "step_00000020").mkdir(parents=True)
    age_file(folder / "heartbeat", 60)
    assert len(reap(sweep, sweep.ledger(), None)) == 1
    assert read_entry(sweep, ids(3)[0]).wasted_s == 0


def test_trial_fails_after_its_last_attempt(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", RATES, max_attempts=2)
    for attempt in (1, 2):
        age_file(claim_trial(sweep, ids(3)[0]) / "heartbeat", 60)
        assert len(reap(sweep, sweep.ledger(), None)) == 1
        assert read_entry(sweep, ids(3)[0]).attempt == attempt
    lost = read_entry(sweep, ids(3)[0])
    assert (lost.state, lost.failure) == ("failed", "node lost")
    assert (lost.reason or "").endswith("; no attempt is left (sweep.max_attempts=2)")


def test_lost_attempt_with_a_cancel_request_is_cancelled(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", RATES)
    folder = claim_trial(sweep, ids(3)[0])
    (folder / "cancel").touch()
    age_file(folder / "heartbeat", 60)
    assert len(reap(sweep, sweep.ledger(), None)) == 1
    assert (read_entry(sweep, ids(3)[0]).state, read_entry(sweep, ids(3)[0]).failure) == ("cancelled", "cancelled")


def test_attempt_that_ends_during_the_scheduler_query_is_unchanged(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", RATES)
    claim_trial(sweep, ids(3)[0], "11_0.0")

    class Slow(Scheduler):
        def find_lost(self, jobs: Sequence[str]) -> dict[str, str]:
            end_trial(sweep, ids(3)[0], "finished", value=0.5, step=200)
            claim_trial(sweep, ids(3)[1], "11_0.0")
            return super().find_lost(jobs)

    assert reap(sweep, sweep.ledger(), Slow({"11_0.0": "COMPLETED"})) == []
    assert [read_entry(sweep, trial).state for trial in ids(3)] == ["finished", "running", "pending"]


def test_concurrent_reapers_end_each_attempt_once(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", RATES)
    for trial in ids(3):
        age_file(claim_trial(sweep, trial) / "heartbeat", 60)
    code = """
import sys
from pathlib import Path
from experiments.sweep.worker.reaper import reap
from experiments.sweep.sweep import Sweep
sweep = Sweep(Path(sys.argv[1]))
print("ready", flush=True)
input()
print(len(reap(sweep, sweep.ledger(), None)))
"""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-P", "-c", code, str(sweep.folder)]
    processes = [subprocess.Popen(command, **pipes) for _ in range(4)]
    assert [process.stdout.readline() for process in processes if process.stdout] == ["ready\n"] * 4
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    counts = [int(process.communicate()[0]) for process in processes]
    assert sum(counts) == 3
    events = [json.loads(line)["event"] for line in (sweep.folder / "ledger.jsonl").read_text().splitlines()]
    assert events.count("ended") == 3
