"""Selecting trials, cancelling them, and showing their logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from experiments.core.errors import InputError
from experiments.sweep.status.selection import cancel, select
from experiments.sweep.sweep import Sweep
from launchers.local import Local
from tests.conftest import Lathe
from tests.support.ledgers import (
    age_file,
    attempt_folder,
    claim_trial,
    end_trial,
    finish_trial,
    ids,
    make_idle_sweep,
    read_entry,
)
from tests.support.waiting import PATIENCE_S, wait_until
from tests.support.workers import kill_worker, make_sweep, start_worker

POINTS = [
    {"optimizer": "adam", "optimizer.lr": 0.1},
    {"optimizer": "adam", "optimizer.lr": 0.01},
    {"optimizer": "sgd", "optimizer.lr": 0.1, "optimizer.nesterov": True},
    {"optimizer": "sgd", "optimizer.lr": 0.1, "optimizer.nesterov": False},
]
LONG = ("max_steps=100000", "eval_every_steps=50", "checkpoint.every_steps=50")


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


STATES = "states are pending, running, finished, pruned, failed, cancelled, and `lathe status s --all` lists the trials"


def read_states(sweep: Sweep) -> list[str]:
    return [entry.state for entry in sweep.ledger().read().entries.values()]


def select_numbers(sweep: Sweep, *args: str) -> list[int]:
    """Indices of the trials that the arguments select."""
    return [int(entry.id[1:]) for entry in select(sweep.ledger().read(), args, sweep.name)]


def find_problems(sweep: Sweep, *args: str) -> str:
    with pytest.raises(InputError) as err:
        select(sweep.ledger().read(), args, sweep.name)
    return "\n".join(err.value.problems)


def test_trials_are_selected_by_id_state_and_override(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", POINTS)
    finish_trial(sweep, ids(4)[0], 0.5)
    claim_trial(sweep, ids(4)[1])
    assert select_numbers(sweep) == [0, 1, 2, 3]
    assert select_numbers(sweep, ids(4)[2]) == [2]
    assert select_numbers(sweep, "pending") == [2, 3]
    assert select_numbers(sweep, "pending", "running") == [1, 2, 3]
    assert select_numbers(sweep, "optimizer=sgd") == [2, 3]
    assert select_numbers(sweep, "optimizer.lr=1e-1") == [0, 2, 3]
    assert select_numbers(sweep, "optimizer.lr=0.1", "optimizer=adam") == [0]
    assert select_numbers(sweep, "optimizer.lr=0.1,0.01", "running") == [1]
    assert select_numbers(sweep, "optimizer.nesterov=true") == [2]
    assert select_numbers(sweep, "pruned") == []


def test_trials_are_selected_by_seed(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", POINTS[:2], seeds=2)
    assert select_numbers(sweep, "seed=1") == [1, 3]


def test_arguments_that_select_no_trial_are_reported_together(tmp_path: Path) -> None:
    sweep = make_idle_sweep(tmp_path, "s", POINTS)
    assert find_problems(sweep, "pendin", "lr=0.1", "optimizer.lr=0.2", "model=mlp", "b000000").splitlines() == [
        "there is no trial 'pendin' in sweep 's'; did you mean 'pending'?",
        "lr=0.1: lr does not vary in sweep 's'; did you mean 'optimizer.lr'?",
        "optimizer.lr=0.2: no trial of sweep 's' has this value; its values are 0.1, 0.01",
        "model=mlp: model does not vary in sweep 's'; known: optimizer, optimizer.lr, optimizer.nesterov",
        f"trial 'b000000' is not unique in sweep 's': {', '.join(ids(4))}; write more characters of it",
    ]
    assert find_problems(sweep, "zz") == f"there is no trial 'zz' in sweep 's'; {STATES}"


def test_sweep_continues_after_some_pending_trials_are_cancelled(tmp_path: Path, lathe: Lathe) -> None:
    sweep = make_idle_sweep(tmp_path / "runs", "s", POINTS)
    finish_trial(sweep, ids(4)[2], 0.5)
    done = lathe("cancel", "s", "optimizer=sgd")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "sweep s: 1 pending trial cancelled\n"
    assert read_states(sweep) == ["pending", "pending", "finished", "cancelled"]
    assert sweep.ledger().read().closed is None
    assert (read_entry(sweep, ids(4)[3]).reason or "").startswith("cancelled by ")
    again = lathe("cancel", "s", "optimizer=sgd")
    assert (again.returncode, again.stdout) == (0, "sweep s: none of the 2 selected trials is pending or running\n")
    assert lathe("cancel", "s", "optimizer=sgd", "running").stdout == "sweep s: no trial is optimizer=sgd and running\n"


def test_cancel_without_arguments_cancels_the_whole_sweep(tmp_path: Path, lathe: Lathe) -> None:
    sweep = make_idle_sweep(tmp_path / "runs", "s", POINTS)
    finish_trial(sweep, ids(4)[0], 0.5)
    done = lathe("cancel", "s")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "sweep s: 3 pending trials cancelled",
        "its workers stop; `lathe resume s` runs the remaining trials",
    ]
    assert read_states(sweep) == ["finished", "cancelled", "cancelled", "cancelled"]
    assert (sweep.ledger().read().closed or "").startswith("cancelled by ")
    size = (sweep.folder / "ledger.jsonl").stat().st_size
    again = lathe("cancel", "s")
    assert again.stdout == "sweep s is over: 1/4 done, 3 cancelled; nothing is left to cancel\n"
    assert (again.returncode, (sweep.folder / "ledger.jsonl").stat().st_size) == (0, size)


def test_cancel_does_not_change_a_finished_sweep(tmp_path: Path, lathe: Lathe) -> None:
    sweep = make_idle_sweep(tmp_path / "runs", "s", POINTS[:1])
    finish_trial(sweep, ids(1)[0], 0.5)
    assert lathe("cancel", "s").stdout == "sweep s is over: 1/1 done; nothing is left to cancel\n"
    assert sweep.ledger().read().closed is None


def test_concurrent_cancels_record_each_trial_once(tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    sweep = make_idle_sweep(tmp_path, "s", POINTS)
    command = [sys.executable, "-P", "-m", "experiments.cli", "cancel", "s", "--runs-dir", str(tmp_path)]
    processes += [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.wait(timeout=PATIENCE_S) for process in processes] == [0, 0, 0]
    events = [json.loads(line)["event"] for line in (sweep.folder / "ledger.jsonl").read_text().splitlines()]
    assert (events.count("cancelled"), events.count("closed")) == (4, 1)


def test_trial_of_a_lost_worker_is_cancelled_immediately(tmp_path: Path) -> None:
    sweep, lines = make_idle_sweep(tmp_path, "s", POINTS), list[str]()
    age_file(claim_trial(sweep, ids(4)[0]) / "heartbeat", 60)
    cancel(sweep, Local(), ["optimizer=adam"], lines.append)
    assert lines == ["sweep s: 2 pending trials cancelled"]
    assert read_states(sweep) == ["cancelled", "cancelled", "pending", "pending"]


def test_trial_that_does_not_save_in_time_is_reported(tmp_path: Path) -> None:
    sweep, lines = make_idle_sweep(tmp_path, "s", POINTS[:1]), list[str]()
    folder = claim_trial(sweep, ids(1)[0])
    cancel(sweep, Local(), ["running"], lines.append, save_s=0.5)
    assert lines[:2] == [
        "sweep s: 1 running trial asked to save and stop",
        "1 of the running trials have not ended within 0 s",
    ]
    assert lines[2].endswith("shows when they have ended")
    assert (folder / "cancel").exists()
    assert read_states(sweep) == ["running"]


def test_trial_that_is_interrupted_during_cancel_does_not_restart(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    sweep = make_idle_sweep(tmp_path, "s", POINTS[:2])
    folder = claim_trial(sweep, ids(2)[0])
    command = [sys.executable, "-P", "-m", "experiments.cli", "cancel", str(sweep.folder), "optimizer.lr=0.1"]
    processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    wait_until((folder / "cancel").exists, "the request")
    end_trial(sweep, ids(2)[0], "pending", failure="preempted", reason="SIGTERM")
    assert processes[0].communicate(timeout=PATIENCE_S)[0].endswith("trials that were running: 1 cancelled\n")
    assert read_states(sweep) == ["cancelled", "pending"]


def test_attempt_that_starts_during_cancel_is_cancelled_too(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    sweep = make_idle_sweep(tmp_path, "s", POINTS[:1])
    folder = claim_trial(sweep, ids(1)[0])
    command = [sys.executable, "-P", "-m", "experiments.cli", "cancel", str(sweep.folder), "running"]
    processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    wait_until((folder / "cancel").exists, "the request")
    ledger = sweep.ledger()
    with ledger.locked() as ledger_state:  # interrupted, and taken by another worker before the command sees it pending
        ledger.end(ids(1)[0], 1, "pending", failure="preempted")
        ledger.claim(ledger_state.entries[ids(1)[0]], worker="other", host="h", devices=1)
    second = folder.parent / "2"
    wait_until((second / "cancel").exists, "the second request")
    end_trial(sweep, ids(1)[0], "cancelled", failure="cancelled")
    assert processes[0].wait(timeout=PATIENCE_S) == 0


def test_ctrl_c_skips_the_wait_of_cancel(tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    sweep = make_idle_sweep(tmp_path, "s", POINTS[:2])
    claim_trial(sweep, ids(2)[0])
    command = [sys.executable, "-P", "-u", "-m", "experiments.cli", "cancel", str(sweep.folder)]
    processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    assert processes[0].stdout is not None
    shown = [processes[0].stdout.readline() for _ in range(2)]
    assert shown == [
        "sweep s: 1 pending trial cancelled, 1 running trial asked to save and stop\n",
        "waiting up to 20 s until running trials have saved; press Ctrl-C to skip the wait\n",
    ]
    processes[0].send_signal(signal.SIGINT)
    rest, wrong = processes[0].communicate(timeout=PATIENCE_S)
    assert rest.splitlines()[0] == "no longer waiting; press Ctrl-C again to quit"
    assert rest.splitlines()[1].startswith("its workers stop; ")
    assert (processes[0].returncode, wrong) == (0, "")


def test_a_running_trial_saves_and_its_worker_ends(tmp_path: Path) -> None:
    sweep, lines = make_sweep(tmp_path, [{}, {"optimizer.lr": 0.5}], *LONG), list[str]()
    worker = start_worker(sweep)
    try:
        wait_until(lambda: read_states(sweep)[0] == "running", "a running trial")
        (trial, _) = sweep.ledger().read().entries
        wait_until(lambda: any((sweep.folder / trial / "checkpoints").glob("step_*")), "a checkpoint")
        cancel(sweep, Local(), (), lines.append)
        assert read_states(sweep) == ["cancelled", "cancelled"]
        assert worker.wait(timeout=PATIENCE_S) == 0
    finally:
        kill_worker(worker)
    assert lines[0] == "sweep probe: 1 pending trial cancelled, 1 running trial asked to save and stop"
    assert "trials that were running: 1 cancelled" in lines
    assert read_entry(sweep, trial).step > 0


# Logs


def print_log(sweep: Sweep, trial: str, lines: Sequence[str], rank: int = 0) -> Path:
    path = attempt_folder(sweep, trial) / ("log.txt" if rank == 0 else f"log_rank_{rank}.txt")
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_last_lines_of_failed_trials_are_shown(tmp_path: Path, lathe: Lathe) -> None:
    sweep = make_idle_sweep(tmp_path / "runs", "s", POINTS)
    done = lathe("logs", "s")
    assert (done.returncode, done.stdout) == (
        0, "no trial of sweep s has failed; `lathe logs s TRIAL` shows the output of a trial\n",
    )  # fmt: skip
    for trial, lines in ((ids(4)[1], [f"line {number}" for number in range(100)]), (ids(4)[2], ["other"])):
        claim_trial(sweep, trial)
        print_log(sweep, trial, lines)
    end_trial(sweep, ids(4)[1], "failed", failure="exception", reason="KeyError: 'x'", wasted=True)
    claim_trial(sweep, ids(4)[3], beats=False)
    end_trial(sweep, ids(4)[3], "failed", failure="config error", reason="no such key", wasted=True)
    shown = lathe("logs", "s").stdout.splitlines()
    assert shown[0] == f"== {ids(4)[1]} (optimizer=adam optimizer.lr=0.01), attempt 1: failed: exception, KeyError: 'x'"
    assert shown[1:22] == [*(f"line {number}" for number in range(80, 100)), ""]
    assert shown[22].endswith("attempt 1: failed: config error, no such key")
    assert shown[23:] == ["(no output)", ""]


def test_whole_log_of_a_trial_is_shown_with_its_state(tmp_path: Path, lathe: Lathe) -> None:
    sweep = make_idle_sweep(tmp_path / "runs", "s", POINTS)
    claim_trial(sweep, ids(4)[1])
    print_log(sweep, ids(4)[1], ["first"])
    print_log(sweep, ids(4)[1], ["of rank 1"], rank=1)
    end_trial(sweep, ids(4)[1], "pending", failure="preempted", reason="SIGTERM")
    claim_trial(sweep, ids(4)[1])
    print_log(sweep, ids(4)[1], [f"line {number}" for number in range(50)])
    done = lathe("logs", "s", "optimizer.lr=0.01")
    assert done.stdout.splitlines() == [f"line {number}" for number in range(50)]
    assert done.stderr == f"trial {ids(4)[1]}, attempt 2: running on node7\n"
    first = lathe("logs", "s", ids(4)[1], "--attempt", "1")
    assert (first.stdout, first.stderr) == ("first\n", f"trial {ids(4)[1]}, attempt 1 of 2\n")
    assert lathe("logs", "s", ids(4)[1], "--attempt", "1", "--rank", "1").stdout == "of rank 1\n"
    waiting = lathe("logs", "s", ids(4)[0])
    assert (waiting.returncode, waiting.stdout, waiting.stderr) == (0, "", f"trial {ids(4)[0]}, pending\n")


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (
            ["b9"],
            f"there is no trial 'b9' in sweep 's'; {STATES}",
        ),
        ([ids(1)[0], "--attempt", "3"], f"--attempt 3: trial {ids(1)[0]} has no such attempt; its attempts are 1"),
        ([ids(2)[1], "--attempt", "1"], f"--attempt 1: trial {ids(2)[1]} has no such attempt; it has not started yet"),
        ([ids(1)[0], "--rank", "2"], f"--rank 2: attempt 1 of trial {ids(1)[0]} has no such rank; it has only rank 0"),
        (["--follow"], "--follow, --attempt and --rank need one trial, but no trial is given; add the id of a trial"),
        (
            ["optimizer=sgd", "--follow"],
            "--follow, --attempt and --rank need one trial, but optimizer=sgd selects 2 trials; add the id of a trial",
        ),
    ],
)
def test_missing_log_is_an_error(tmp_path: Path, lathe: Lathe, args: list[str], problem: str) -> None:
    sweep = make_idle_sweep(tmp_path / "runs", "s", POINTS)
    claim_trial(sweep, ids(4)[0])
    print_log(sweep, ids(4)[0], ["first"])
    done = lathe("logs", "s", *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"InputError: the command has a problem:\n  - {problem}\n"


def test_log_is_followed_across_attempts_until_the_trial_ends(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    sweep = make_idle_sweep(tmp_path, "s", POINTS)
    command = [sys.executable, "-P", "-u", "-m", "experiments.cli", "logs", str(sweep.folder), ids(4)[0], "--follow"]
    processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    assert processes[0].stdout is not None
    claim_trial(sweep, ids(4)[0])
    path = print_log(sweep, ids(4)[0], ["one"])
    assert processes[0].stdout.readline() == "one\n"
    with path.open("a") as file:
        file.write("two\n")
    assert processes[0].stdout.readline() == "two\n"
    end_trial(sweep, ids(4)[0], "pending", failure="preempted", reason="SIGTERM")
    claim_trial(sweep, ids(4)[0])
    print_log(sweep, ids(4)[0], ["three"])
    assert processes[0].stdout.readline() == "three\n"
    end_trial(sweep, ids(4)[0], "finished", value=1.0, step=200)
    rest, noted = processes[0].communicate(timeout=PATIENCE_S)
    assert (processes[0].returncode, rest) == (0, "")
    assert noted.splitlines()[-2:] == ["attempt 2 on node7", f"trial {ids(4)[0]}, attempt 2: finished"]


def test_ctrl_c_ends_only_the_following(tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    sweep = make_idle_sweep(tmp_path, "s", POINTS)
    claim_trial(sweep, ids(4)[0])
    print_log(sweep, ids(4)[0], ["one"])
    command = [sys.executable, "-P", "-u", "-m", "experiments.cli", "logs", str(sweep.folder), ids(4)[0], "--follow"]
    processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    assert processes[0].stdout is not None
    assert processes[0].stdout.readline() == "one\n"
    processes[0].send_signal(signal.SIGINT)
    assert processes[0].wait(timeout=PATIENCE_S) == 0
    assert read_states(sweep)[0] == "running"


def test_worker_logs_are_shown(tmp_path: Path, lathe: Lathe) -> None:
    sweep = make_idle_sweep(tmp_path / "runs", "s", POINTS)
    assert lathe("logs", "s", "--workers").stdout == "there are no worker logs yet\n"
    claim_trial(sweep, ids(4)[0], "12_0.0")
    workers = sweep.folder / "workers"
    for path, text in ((workers / "12_0.0" / "log.txt", "of worker 0\n"), (workers / "12_1.0" / "log.txt", "of 1\n")):
        path.parent.mkdir()
        path.write_text(text)
        os.utime(path, (time.time() - 10, time.time() - 10))
    (workers / "12_0.txt").write_text("slurmstepd: error\n")
    (workers / "12_1.txt").touch()
    shown = lathe("logs", "s", "--workers").stdout
    assert shown.endswith("== workers/12_0.txt\nslurmstepd: error\n\n1 of 4 worker logs are empty\n")
    assert "== workers/12_1.0/log.txt\nof 1\n" in shown
    assert lathe("logs", "s", ids(4)[0], "--workers").stdout == "== workers/12_0.0/log.txt\nof worker 0\n\n"
