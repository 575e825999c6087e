"""Workers that run trials, are stopped and are killed: real processes, real signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from experiments.run import folder_watch, journal
from experiments.sweep.sweep import Sweep
from experiments.sweep.worker import claims
from experiments.sweep.worker import worker as worker_module
from launchers.base import FAILED, PLACEMENT_VARIABLE, RankPlacement
from tests.support.waiting import PATIENCE_S, wait_until
from tests.support.workers import (
    Worker,
    age_heartbeats,
    kill_worker,
    make_sweep,
    read_entries,
    read_last_step,
    start_worker,
    wait_for_child,
)

pytestmark = pytest.mark.slow

LONG = ("max_steps=100000", "eval_every_steps=50", "checkpoint.every_steps=50", "log_every_steps=50")


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    """The workers of a test, which are killed at its end."""
    started: list[Worker] = []
    yield started
    for worker in started:
        kill_worker(worker)


def count_steps(sweep: Sweep, name: str) -> Counter[int]:
    """How often the replay has each step of the metric."""
    events = journal.replay(sweep.folder / name)
    return Counter(
        event["step"] for event in events if event["event"] == "metrics" and "val/accuracy_top1" in event["metrics"]
    )


def test_worker_runs_every_trial_and_exits(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [{"optimizer.lr": lr} for lr in (0.001, 0.01, 0.1)])
    worker = start_worker(sweep)
    assert worker.wait(timeout=PATIENCE_S) == 0, (sweep.folder / "workers" / "w.txt").read_text()
    assert [entry.state for entry in read_entries(sweep)] == ["finished"] * 3
    assert len({entry.value for entry in read_entries(sweep)}) > 1
    for entry in read_entries(sweep):
        outcome = sweep.trial(entry).outcome()
        assert outcome is not None
        assert outcome["status"] == "finished"
        assert count_steps(sweep, entry.id) == {20: 1, 40: 1}


def test_killed_trial_resumes_from_its_checkpoint(tmp_path: Path, workers: list[Worker]) -> None:
    sweep = make_sweep(tmp_path, [{}], *LONG, "max_steps=2000")
    workers.append(start_worker(sweep))
    child = wait_for_child(workers[0])
    checkpoints = sweep.folder / read_entries(sweep)[0].id / "checkpoints"
    wait_until(lambda: list(checkpoints.glob("step_*")), "a checkpoint")  # the journal may be steps ahead of it
    os.kill(child, signal.SIGKILL)
    assert workers[0].wait(timeout=PATIENCE_S) == 0
    entry = read_entries(sweep)[0]
    assert (entry.state, entry.attempt) == ("finished", 2)
    lines = (sweep.folder / entry.id / "attempts" / "2" / "journal.jsonl").read_text().splitlines()
    resumed = next(event for event in map(json.loads, lines) if event["event"] == "state")
    assert resumed["step"] >= 50
    assert set(count_steps(sweep, entry.id).values()) == {1}


def test_trial_that_is_killed_in_every_attempt_fails(tmp_path: Path, workers: list[Worker]) -> None:
    sweep = make_sweep(tmp_path, [{}], *LONG, max_attempts=2)
    workers.append(start_worker(sweep))
    for attempt in (1, 2):
        wait_until(lambda attempt=attempt: read_entries(sweep)[0].attempt == attempt, f"attempt {attempt}")  # type: ignore[misc]
        os.kill(wait_for_child(workers[0]), signal.SIGKILL)
    assert workers[0].wait(timeout=PATIENCE_S) == 0
    entry = read_entries(sweep)[0]
    assert (entry.state, entry.failure, entry.attempt) == ("failed", "killed", 2)
    assert "sweep.max_attempts=2" in (entry.reason or "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_worker_saves_its_trial_at_a_stop_signal(tmp_path: Path, workers: list[Worker], number: signal.Signals) -> None:
    sweep = make_sweep(tmp_path, [{}], *LONG)
    workers.append(start_worker(sweep))
    wait_until(lambda: read_last_step(sweep, read_entries(sweep)[0]) >= 50, "step 50")
    os.kill(workers[0].pid, number)
    assert workers[0].wait(timeout=PATIENCE_S) == 75
    entry = read_entries(sweep)[0]
    assert (entry.state, entry.failure) == ("pending", "preempted")
    assert entry.wasted_s == 0
    assert list((sweep.folder / entry.id / "checkpoints").glob(f"step_{entry.step:08d}"))


def test_worker_at_its_time_limit_records_a_time_out(tmp_path: Path, workers: list[Worker]) -> None:
    sweep = make_sweep(tmp_path, [{}], *LONG)
    workers.append(start_worker(sweep, ends_at=time.time() + 120, signal_delay_s=60.0))
    wait_until(lambda: read_last_step(sweep, read_entries(sweep)[0]) >= 50, "step 50")
    os.kill(workers[0].pid, signal.SIGUSR2)
    assert workers[0].wait(timeout=PATIENCE_S) == 75
    assert [(entry.state, entry.failure) for entry in read_entries(sweep)] == [("pending", "time-out")]


def test_cancel_file_cancels_a_trial(tmp_path: Path, workers: list[Worker]) -> None:
    sweep = make_sweep(tmp_path, [{}, {"optimizer.lr": 0.5}], *LONG)
    workers.append(start_worker(sweep))
    for number in (0, 1):
        wait_until(lambda number=number: read_entries(sweep)[number].state == "running", f"trial {number}")  # type: ignore[misc]
        folder = sweep.folder / read_entries(sweep)[number].id / "attempts" / "1"
        wait_until(folder.exists, "its folder")
        (folder / "cancel").touch()
        wait_until(lambda number=number: read_entries(sweep)[number].state != "running", "its end")  # type: ignore[misc]
    assert workers[0].wait(timeout=PATIENCE_S) == 0
    assert [(entry.state, entry.failure) for entry in read_entries(sweep)] == [("cancelled", "cancelled")] * 2


def test_another_worker_takes_over_the_trial_of_a_killed_worker(tmp_path: Path, workers: list[Worker]) -> None:
    sweep = make_sweep(tmp_path, [{}, {"optimizer.lr": 0.002}], *LONG, "max_steps=2000")
    workers.append(start_worker(sweep, "first"))
    wait_until(lambda: read_last_step(sweep, read_entries(sweep)[0]) >= 100, "step 100")
    child = wait_for_child(workers[0])
    os.kill(workers[0].pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{child}").exists(), "the end of the orphan")
    age_heartbeats(sweep)
    workers.append(start_worker(sweep, "second"))
    assert workers[1].wait(timeout=PATIENCE_S) == 0
    assert [entry.state for entry in read_entries(sweep)] == ["finished"] * 2
    lost = read_entries(sweep)[0]
    assert (lost.attempt, lost.worker) == (2, "second")
    assert set(count_steps(sweep, lost.id).values()) == {1}


def test_replaced_worker_ends_its_trial(tmp_path: Path, workers: list[Worker]) -> None:
    sweep = make_sweep(tmp_path, [{}], *LONG)
    workers.append(start_worker(sweep))
    wait_until(lambda: read_last_step(sweep, read_entries(sweep)[0]) >= 50, "step 50")
    child, ledger = wait_for_child(workers[0]), sweep.ledger()
    with ledger.locked() as ledger_state:
        ledger.end(read_entries(sweep)[0].id, 1, "pending", failure="node lost")
        ledger.claim(ledger_state.entries[read_entries(sweep)[0].id], worker="other", host="h", devices=1)
    wait_until(lambda: not Path(f"/proc/{child}").exists(), "the end of the orphan")
    assert (read_entries(sweep)[0].state, read_entries(sweep)[0].worker) == ("running", "other")


@pytest.mark.parametrize("harm", ["removed", "renamed"])
def test_worker_whose_sweep_is_lost_ends_and_makes_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    monkeypatch.setattr(folder_watch, "GONE_S", 0.0)
    sweep = make_sweep(tmp_path, [{}])

    def lose_the_folder(*_: object) -> None:
        if harm == "renamed":
            sweep.folder.rename(tmp_path / "away")
        else:
            shutil.rmtree(sweep.folder)

    monkeypatch.setattr(claims, "find_spent_limit", lose_the_folder)  # in the midst of a claim
    group, waiter = SimpleNamespace(is_complete=True, close=list), SimpleNamespace(stop_signal=None)
    worker = worker_module.Worker(sweep, RankPlacement(worker="w"), cast(Any, group), cast(Any, waiter))
    assert worker.work() == FAILED
    assert f"the sweep's folder {sweep.folder} is gone, so this worker ends" in capsys.readouterr().err
    monkeypatch.setattr(worker_module, "SignalWaiter", lambda: None)  # this process keeps its handlers
    monkeypatch.setattr(sys, "argv", ["worker", str(sweep.folder)])
    monkeypatch.setenv(PLACEMENT_VARIABLE, RankPlacement(worker="w").to_json())
    assert worker_module.main() == FAILED, "of a worker that starts when the folder is lost"
    assert not sweep.folder.exists()


def test_worker_claims_no_trial_shortly_before_its_time_limit(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [{}])
    worker = start_worker(sweep, ends_at=time.time() + 60, signal_delay_s=45.0)
    assert worker.wait(timeout=PATIENCE_S) == 75
    assert [entry.state for entry in read_entries(sweep)] == ["pending"]


@pytest.mark.parametrize(
    ("overrides", "failure", "message"),
    [
        (("optimizer.lr=1e30",), "exception", "TrainingError"),
        (("hardware.device=cuda",), "config error", "hardware.device=cuda"),
    ],
)
def test_error_of_the_trial_is_not_retried(
    tmp_path: Path, overrides: tuple[str, ...], failure: str, message: str
) -> None:
    sweep = make_sweep(tmp_path, [{}, {"seed": 1}], *overrides)
    assert start_worker(sweep).wait(timeout=PATIENCE_S) == 0
    for entry in read_entries(sweep):
        assert (entry.state, entry.failure, entry.attempt) == ("failed", failure, 1)
        assert message in (entry.reason or "")


def test_ranks_of_a_worker_run_a_trial_together(tmp_path: Path, workers: list[Worker]) -> None:
    overrides = ("parallel=data", "hardware=cpu_4", "hardware.devices_per_node=2")
    sweep = make_sweep(tmp_path, [{"optimizer.lr": 0.01}, {"optimizer.lr": 0.02}], *overrides)
    for rank in (1, 0):
        workers.append(start_worker(sweep, rank=rank, local_rank=rank, local_world_size=2, world_size=2))
    assert [worker.wait(timeout=PATIENCE_S) for worker in workers] == [0, 0]
    alone = make_sweep(tmp_path, [{"optimizer.lr": 0.01}, {"optimizer.lr": 0.02}], name="alone")
    assert start_worker(alone).wait(timeout=PATIENCE_S) == 0
    values = [entry.value for entry in read_entries(sweep)]
    assert None not in values
    assert values == pytest.approx([entry.value for entry in read_entries(alone)])


def test_killed_rank_ends_the_attempt_but_not_the_worker(tmp_path: Path, workers: list[Worker]) -> None:
    overrides = ("parallel=data", "hardware=cpu_4", "hardware.devices_per_node=2", *LONG, "max_steps=1500")
    sweep = make_sweep(tmp_path, [{}], *overrides)
    for rank in (0, 1):
        workers.append(start_worker(sweep, rank=rank, local_rank=rank, local_world_size=2, world_size=2))
    wait_until(lambda: read_last_step(sweep, read_entries(sweep)[0]) >= 100, "step 100")
    os.kill(wait_for_child(workers[1]), signal.SIGKILL)
    assert [worker.wait(timeout=PATIENCE_S) for worker in workers] == [0, 0]
    entry = read_entries(sweep)[0]
    assert (entry.state, entry.attempt) == ("finished", 2)
