"""What a sweep's state is, and which claims are dead: ledgers and journals as workers write them."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
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
from tests.support.ledgers import attempt_folder, begin, end, entry, finish, grow_old, ids, log, make, shift

RATES = [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.01}, {"optimizer.lr": 0.001}]


class Scheduler:
    """Executor of a scheduler that answers as it is told, and remembers what it was asked."""

    def __init__(self, gone: dict[str, str] | None = None, queued: int = 0) -> None:
        self.gone, self.queued = gone or {}, queued
        self.asked: list[list[str]] = []

    def find_lost(self, jobs: Sequence[str]) -> dict[str, str]:
        self.asked.append(list(jobs))
        return {job: why for job, why in self.gone.items() if job in jobs}

    def count_pending(self, jobs: Sequence[str]) -> int:
        return self.queued

    def cancel(self, jobs: Sequence[str]) -> None:
        raise NotImplementedError

    def submit(self, pool: WorkerPool) -> str:
        raise NotImplementedError

    def count_workers(self, pool: WorkerPool) -> int:
        raise NotImplementedError

    def describe(self, pool: WorkerPool) -> str:
        raise NotImplementedError


def state_of(sweep: Sweep) -> str:
    return read_progress(sweep, sweep.ledger()).state


def test_trials_are_counted_by_state_and_faults_by_class(tmp_path: Path) -> None:
    sweep = make(tmp_path, "s", [{"optimizer.lr": rate} for rate in range(7)])
    finish(sweep, ids(7)[0], 0.5)
    for trial in ids(7)[1:5]:
        begin(sweep, trial)
    end(sweep, ids(7)[1], "pruned", value=0.1, step=20)
    end(sweep, ids(7)[2], "failed", failure="exception", reason="KeyError: 'x'", step=3, wasted=True)
    end(sweep, ids(7)[3], "failed", failure="out of host memory", wasted=True)
    ledger = sweep.ledger()
    with ledger.locked():
        ledger.cancel([ids(7)[6]], "cancelled by me")
    seen = read_progress(sweep, ledger)
    assert (seen.state, seen.total, seen.done) == ("running", 7, 2)
    assert seen.counts == {"failed": 2, "running": 1, "pending": 1, "finished": 1, "pruned": 1, "cancelled": 1}
    assert seen.failed == {"exception": 1, "out of host memory": 1}
    assert [row.state for row in seen.rows] == [
        "failed", "failed", "running", "finished", "pruned", "pending", "cancelled",
    ]  # fmt: skip
    assert (seen.workers, seen.queued) == (1, None)


@pytest.mark.parametrize(("mode", "point"), [("max", 1), ("min", 0)])
def test_the_best_point_is_one_of_which_every_seed_is_finished(tmp_path: Path, mode: str, point: int) -> None:
    sweep = make(tmp_path, "s", RATES, seeds=2, mode=mode)
    values = {0: 0.2, 1: 0.4, 2: 0.9, 3: 0.1, 4: 5.0 if mode == "max" else -5.0}
    for number, value in values.items():
        finish(sweep, ids(6)[number], value)
    best = read_progress(sweep, sweep.ledger()).best
    assert best is not None
    assert (best.point, best.values, best.trials) == (point, RATES[point], tuple(ids(6)[2 * point : 2 * point + 2]))
    assert best.value == pytest.approx(0.5 if point else 0.3)


def test_a_value_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    sweep = make(tmp_path, "s", RATES)
    finish(sweep, ids(3)[0], math.nan)
    assert read_progress(sweep, sweep.ledger()).best is None
    finish(sweep, ids(3)[1], -3.0)
    best = read_progress(sweep, sweep.ledger()).best
    assert best is not None
    assert best.value == -3.0
    assert [row.id for row in read_progress(sweep, sweep.ledger()).rows] == [ids(3)[1], ids(3)[0], ids(3)[2]]


def test_a_running_trial_is_read_on_from_its_journal(tmp_path: Path) -> None:
    sweep = make(tmp_path, "s", RATES)
    begin(sweep, ids(3)[0])
    reader = ProgressReader(sweep, sweep.ledger())
    assert (reader.read().rows[0].step, reader.read().rows[0].last) == (0, None)
    log(sweep, ids(3)[0], {20: 0.4, 40: 0.7, 60: 0.6})
    row = reader.read().rows[0]
    assert (row.step, row.num_steps, row.last, row.best) == (60, 200, 0.6, 0.7)
    path = attempt_folder(sweep, ids(3)[0]) / "journal.jsonl"
    with path.open("a") as file:
        file.write('{"event":"metrics","time":1,"step":80,"metrics":{"val/accuracy_top1":0.9')
    assert reader.read().rows[0].best == 0.7
    with path.open("a") as file:
        file.write('}}\nnot json\n["nor", "a map"]\n')
    assert (reader.read().rows[0].step, reader.read().rows[0].best) == (80, 0.9)


def test_what_was_read_is_not_read_again_and_what_ended_not_at_all(tmp_path: Path) -> None:
    sweep = make(tmp_path, "s", RATES)
    for trial in ids(3)[:2]:
        begin(sweep, trial)
        log(sweep, trial, {20: 0.4})
    reader = ProgressReader(sweep, sweep.ledger())
    reader.read()
    path = attempt_folder(sweep, ids(3)[0]) / "journal.jsonl"
    path.write_bytes(b"x" * path.stat().st_size)  # as long as before, and nothing behind
    assert reader.read().rows[0].best == 0.4
    end(sweep, ids(3)[1], "finished", value=0.5, step=200)
    ended = attempt_folder(sweep, ids(3)[1]) / "journal.jsonl"
    ended.unlink()
    ended.mkdir()  # nothing that one could read
    assert {row.id: row.best for row in reader.read().rows} == {ids(3)[0]: 0.4, ids(3)[1]: 0.5, ids(3)[2]: None}


def test_the_best_of_an_interrupted_trial_counts_its_earlier_attempts(tmp_path: Path) -> None:
    sweep = make(tmp_path, "s", RATES)
    begin(sweep, ids(3)[0])
    end(sweep, ids(3)[0], "pending", value=0.8, step=100, failure="preempted", reason="SIGTERM")
    row = read_progress(sweep, sweep.ledger()).rows[0]
    assert (row.id, row.state, row.step, row.failure) == (ids(3)[0], "pending", 100, "preempted")
    begin(sweep, ids(3)[0])
    log(sweep, ids(3)[0], {120: 0.6})
    row = read_progress(sweep, sweep.ledger()).rows[0]
    assert (row.attempt, row.step, row.last, row.best, row.failure) == (2, 120, 0.6, 0.8, None)


def test_device_hours_and_the_budget_are_counted(tmp_path: Path) -> None:
    budget = {"max_points": 3, "wall_h": None, "device_h": 100}
    sweep = make(tmp_path, "s", RATES, budget=budget)
    begin(sweep, ids(3)[0])
    begin(sweep, ids(3)[1])
    shift(sweep, 7200)
    end(sweep, ids(3)[0], "failed", failure="exception", wasted=True)
    seen = read_progress(sweep, sweep.ledger())
    assert seen.used_h == pytest.approx(8, abs=0.01)  # two hours of two devices, twice
    assert seen.wasted_h == pytest.approx(4, abs=0.01)
    assert seen.elapsed_s == pytest.approx(7200, abs=60)
    assert {name: share.of for name, share in seen.budget.items()} == {"max_points": 3, "device_h": 100}
    assert seen.budget["max_points"].spent == 3
    assert seen.budget["device_h"].spent == pytest.approx(8, abs=0.01)


def test_time_left_goes_by_the_pace_first_and_then_by_what_trials_took(tmp_path: Path) -> None:
    sweep = make(tmp_path, "s", [{"optimizer.lr": rate} for rate in range(5)])
    assert read_progress(sweep, sweep.ledger()).left_s is None
    for trial in ids(5)[:2]:
        begin(sweep, trial)
    assert read_progress(sweep, sweep.ledger()).left_s is None  # nothing is known yet
    log(sweep, ids(5)[0], {50: 0.1})
    shift(sweep, 100)
    # One is a quarter done, so that a trial takes 400 s: 300 of each that runs, and three of 400 s on two executor.
    assert read_progress(sweep, sweep.ledger()).left_s == pytest.approx((2 * 300 + 3 * 400) / 2, abs=60)
    end(sweep, ids(5)[0], "finished", value=1.0, step=200)
    seen = read_progress(
        sweep, sweep.ledger()
    )  # one took 100 s, as long as the other has run: three more on the one crew
    assert seen.left_s == pytest.approx(300, abs=60)


def test_a_sweep_is_done_failed_cancelled_or_spent(tmp_path: Path) -> None:
    sweep = make(tmp_path, "s", RATES[:2])
    assert state_of(sweep) == "pending"
    finish(sweep, ids(2)[0], 0.5)
    ledger = sweep.ledger()
    with ledger.locked():
        ledger.close("sweep.budget.device_h=1 is spent")
    assert (state_of(sweep), read_progress(sweep, ledger).closed) == ("spent", "sweep.budget.device_h=1 is spent")
    with ledger.locked():
        ledger.reopen()
    begin(sweep, ids(2)[1])
    assert state_of(sweep) == "running"
    end(sweep, ids(2)[1], "failed", failure="exception", wasted=True)
    assert state_of(sweep) == "failed"
    with ledger.locked():
        ledger.retry([ids(2)[1]])
        ledger.close("cancelled by me")
    assert state_of(sweep) == "cancelled"
    with ledger.locked():
        ledger.reopen()
    finish(sweep, ids(2)[1], 0.6)
    assert state_of(sweep) == "done"


def test_a_budget_of_hours_that_passed_since_the_end_spoils_nothing(tmp_path: Path) -> None:
    sweep = make(tmp_path, "s", RATES[:1], budget={"max_points": None, "wall_h": 1.0, "device_h": None})
    finish(sweep, ids(1)[0], 0.5)
    shift(sweep, 8000)
    assert (state_of(sweep), read_progress(sweep, sweep.ledger()).closed) == ("done", None)


def test_points_that_a_strategy_is_still_to_be_asked_for_count(tmp_path: Path) -> None:
    strategy = {"name": "tpe", "seed": 0, "startup_points": 5}
    budget = {"max_points": 10, "wall_h": None, "device_h": None}
    sweep = make(tmp_path, "s", RATES, seeds=2, strategy=strategy, budget=budget)
    for trial in ids(6):
        finish(sweep, trial, 0.5)
    seen = read_progress(sweep, sweep.ledger())
    assert (seen.state, seen.done, seen.total, seen.to_ask) == ("pending", 6, 20, 14)
    ledger = sweep.ledger()
    with ledger.locked():
        ledger.close("cancelled by me")
    seen = read_progress(sweep, ledger)
    assert (seen.state, seen.total, seen.to_ask) == ("cancelled", 6, 0)


def test_a_sweep_stands_still_when_no_worker_is_left_or_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make(tmp_path, "s", RATES)
    ledger = sweep.ledger()
    with ledger.locked():
        ledger.record_submission("1234", 2)
    shift(sweep, progress.STARTING_S + 1)
    assert read_progress(sweep, sweep.ledger(), Scheduler()).is_stranded
    assert not read_progress(sweep, sweep.ledger(), Scheduler(queued=1)).is_stranded
    assert read_progress(sweep, sweep.ledger(), Scheduler(queued=1)).queued == 1
    (sweep.folder / "workers" / "1234_0.0").mkdir()
    assert not read_progress(sweep, sweep.ledger(), Scheduler()).is_stranded  # it is about to begin
    assert read_progress(sweep, sweep.ledger(), Scheduler({"1234_0.0": "CANCELLED"})).is_stranded
    begin(sweep, ids(3)[0], "1234_0.0")
    assert not read_progress(
        sweep, sweep.ledger(), Scheduler({"1234_0.0": "CANCELLED"})
    ).is_stranded  # as long as it is claimed
    shift(sweep, progress.SILENT_S)
    end(sweep, ids(3)[0], "pending", failure="preempted")
    assert not read_progress(sweep, sweep.ledger(), Scheduler()).is_stranded
    shift(sweep, progress.SILENT_S)
    assert read_progress(sweep, sweep.ledger(), Scheduler()).is_stranded  # whoever it is, it does nothing


def test_workers_of_this_machine_that_have_gone_are_known(tmp_path: Path) -> None:
    sweep = make(tmp_path, "s", RATES)
    (sweep.folder / "workers" / f"{socket.gethostname()}-abc123-0").mkdir()
    shift(sweep, progress.STARTING_S + 1)
    ledger = sweep.ledger()
    assert read_progress(sweep, ledger, Local()).is_stranded


def test_a_claim_without_a_sign_of_life_is_ended(tmp_path: Path) -> None:
    sweep = make(tmp_path, "s", RATES)
    folders = [begin(sweep, trial, f"w{number}") for number, trial in enumerate(ids(3))]
    log(sweep, ids(3)[0], {20: 0.4, 40: 0.3})
    grow_old(folders[0] / "heartbeat", 31)
    grow_old(folders[1] / "heartbeat", 25)
    told = reap(sweep, sweep.ledger(), None)
    assert told == [
        f"trial {ids(3)[0]}, attempt 1: worker w0 on node7 has sent no heartbeat for 31 s; the trial is pending again"
    ]
    lost = entry(sweep, ids(3)[0])
    assert (lost.state, lost.failure, lost.value, lost.step) == ("pending", "node lost", 0.4, 40)
    assert lost.reason == "worker w0 on node7 has sent no heartbeat for 31 s"
    assert lost.wasted_s == lost.used_s == 0  # its last sign of life came before the claim
    assert [entry(sweep, trial).state for trial in ids(3)[1:]] == ["running", "running"]
    assert reap(sweep, sweep.ledger(), None) == []


def test_a_claim_that_never_got_a_heartbeat_counts_from_its_beginning(tmp_path: Path) -> None:
    sweep = make(tmp_path, "s", RATES)
    begin(sweep, ids(3)[0], beats=False)
    assert reap(sweep, sweep.ledger(), None) == []
    shift(sweep, 31)
    assert len(reap(sweep, sweep.ledger(), None)) == 1


def test_the_scheduler_is_asked_once_for_all_workers(tmp_path: Path) -> None:
    sweep = make(tmp_path, "s", RATES)
    executor = Scheduler({"11_0.0": "NODE_FAIL"})
    assert reap(sweep, sweep.ledger(), executor) == []
    assert executor.asked == []
    for trial, worker in zip(ids(3), ("11_1.0", "11_0.0", "11_1.0"), strict=True):
        begin(sweep, trial, worker)
    told = reap(sweep, sweep.ledger(), executor)
    assert told == [
        f"trial {ids(3)[1]}, attempt 1: worker 11_0.0 on node7 is lost: NODE_FAIL; the trial is pending again"
    ]
    assert executor.asked == [["11_0.0", "11_1.0"]]


def test_an_attempt_that_left_a_checkpoint_wasted_nothing(tmp_path: Path) -> None:
    sweep = make(tmp_path, "s", RATES)
    folder = begin(sweep, ids(3)[0])
    (sweep.folder / ids(3)[0] / "checkpoints" / "step_00000020").mkdir(parents=True)
    grow_old(folder / "heartbeat", 60)
    assert len(reap(sweep, sweep.ledger(), None)) == 1
    assert entry(sweep, ids(3)[0]).wasted_s == 0


def test_a_trial_fails_when_its_attempts_are_used_up(tmp_path: Path) -> None:
    sweep = make(tmp_path, "s", RATES, max_attempts=2)
    for attempt in (1, 2):
        grow_old(begin(sweep, ids(3)[0]) / "heartbeat", 60)
        assert len(reap(sweep, sweep.ledger(), None)) == 1
        assert entry(sweep, ids(3)[0]).attempt == attempt
    lost = entry(sweep, ids(3)[0])
    assert (lost.state, lost.failure) == ("failed", "node lost")
    assert (lost.reason or "").endswith("; no attempt is left (sweep.max_attempts=2)")


def test_a_dead_claim_that_was_to_be_cancelled_is(tmp_path: Path) -> None:
    sweep = make(tmp_path, "s", RATES)
    folder = begin(sweep, ids(3)[0])
    (folder / "cancel").touch()
    grow_old(folder / "heartbeat", 60)
    assert len(reap(sweep, sweep.ledger(), None)) == 1
    assert (entry(sweep, ids(3)[0]).state, entry(sweep, ids(3)[0]).failure) == ("cancelled", "cancelled")


def test_what_ended_while_the_scheduler_was_asked_is_left_alone(tmp_path: Path) -> None:
    sweep = make(tmp_path, "s", RATES)
    begin(sweep, ids(3)[0], "11_0.0")

    class Slow(Scheduler):
        def find_lost(self, jobs: Sequence[str]) -> dict[str, str]:
            end(sweep, ids(3)[0], "finished", value=0.5, step=200)
            begin(sweep, ids(3)[1], "11_0.0")
            return super().find_lost(jobs)

    assert reap(sweep, sweep.ledger(), Slow({"11_0.0": "COMPLETED"})) == []
    assert [entry(sweep, trial).state for trial in ids(3)] == ["finished", "running", "pending"]


def test_of_many_that_notice_at_once_one_ends_the_claim(tmp_path: Path) -> None:
    sweep = make(tmp_path, "s", RATES)
    for trial in ids(3):
        grow_old(begin(sweep, trial) / "heartbeat", 60)
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
    found = [int(process.communicate()[0]) for process in processes]
    assert sum(found) == 3
    events = [json.loads(line)["event"] for line in (sweep.folder / "ledger.jsonl").read_text().splitlines()]
    assert events.count("ended") == 3
