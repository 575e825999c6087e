"""Sweeps on a real SLURM cluster, and what may happen to them there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from experiments.run import journal
from experiments.sweep.create import prepare, write
from experiments.sweep.ledger import Entry
from experiments.sweep.spec import read_overrides
from experiments.sweep.submit import submit
from experiments.sweep.sweep import Sweep
from experiments.sweep.worker.reaper import reap
from experiments.tracking.sweep_sync import sync_sweep
from tests.support.cluster import Cluster
from tests.support.live import Live
from tests.support.variants import IS_LONG
from tests.support.workers import QUICK, entries, steps_done, wait_until

pytestmark = pytest.mark.slow

METRIC = "val/accuracy_top1"
LONG = ("eval_every_steps=100", "checkpoint.every_steps=100", "log_every_steps=100")
PAIR = ("parallel=data", "hardware.nodes=2", "hardware.devices_per_node=2")


def begin(folder: Path, *overrides: str, name: str = "probe") -> Sweep:
    """A sweep whose workers are submitted; its folder is where SLURM's nodes, which are this machine, find it."""
    shared = (*QUICK, "tracking=off", f"runs_dir={folder}", "launcher=slurm", "hardware=local_cluster")
    sweep = write(prepare(read_overrides([*shared, *overrides], name=name)))
    assert submit(sweep) is not None
    return sweep


def see_through(sweep: Sweep, timeout_s: float = 150) -> list[Entry]:
    """Do what an attached `lathe sweep` does, look and reap, until nothing waits or runs."""
    ledger, executor = sweep.ledger(), sweep.executor()
    deadline = time.monotonic() + timeout_s
    while {entry.state for entry in entries(sweep)} & {"pending", "running"}:
        assert time.monotonic() < deadline, [(entry.id, entry.state, entry.reason) for entry in entries(sweep)]
        reap(sweep, ledger, executor)
        time.sleep(1)
    return entries(sweep)


def each_metric_once(sweep: Sweep) -> bool:
    """Whether the replay of every trial has every point of the metric exactly once."""
    for entry in entries(sweep):
        events = journal.replay(sweep.folder / entry.id)
        steps = Counter(event["step"] for event in events if event["event"] == "metrics" and METRIC in event["metrics"])
        length = sweep.templates().fill(entry.values, entry.seed)[0]
        every = length["eval_every_steps"]
        if steps != Counter(range(every, length["max_steps"] + 1, every)):
            return False
    return True


def first_steps(sweep: Sweep, number: int = 0) -> None:
    """Wait until a trial has trained for a while and left a checkpoint."""
    wait_until(lambda: steps_done(sweep, entries(sweep)[number]) >= 200, "step 200")


def resumed_at(sweep: Sweep, entry: Entry) -> int:
    lines = (sweep.folder / entry.id / "attempts" / str(entry.attempt) / "journal.jsonl").read_text().splitlines()
    return next(int(event["step"]) for event in map(json.loads, lines) if event["event"] == "state")


def test_a_sweep_runs_and_the_best_is_known(cluster: Cluster, tmp_path: Path) -> None:
    sweep = begin(tmp_path, "optimizer.lr=0.001,0.01,0.1", "sweep.num_seeds=2", "launcher.workers=2")
    found = see_through(sweep)
    assert [entry.state for entry in found] == ["finished"] * 6
    assert each_metric_once(sweep)
    assert {entry.seed for entry in found} == {0, 1}
    assert all(entry.worker.startswith(f"{sweep.ledger().read().submissions[0]['job']}_") for entry in found)


def test_ranks_on_two_nodes_train_what_one_process_trains(cluster: Cluster, tmp_path: Path) -> None:
    spread = begin(tmp_path, *PAIR, name="spread")
    served = begin(
        tmp_path, *PAIR, "parallel=async", "parallel.num_servers=2", "parallel.max_staleness=0", name="served"
    )
    alone = begin(tmp_path, name="alone")
    found = [see_through(sweep) for sweep in (spread, served, alone)]
    assert [entry.state for some in found for entry in some] == ["finished"] * 3
    for sweep in (spread, served):
        assert entries(sweep)[0].value == pytest.approx(entries(alone)[0].value)
    logs = sorted((spread.folder / entries(spread)[0].id / "attempts" / "1").glob("log*.txt"))
    assert len(logs) == 4


def test_a_preempted_trial_goes_on_from_where_it_was(cluster: Cluster, tmp_path: Path) -> None:
    sweep = begin(tmp_path, *LONG, "max_steps=6000", "hardware.slurm.sbatch={nodelist: 127.0.77.1}")
    first_steps(sweep)
    hog = ("sbatch", "--parsable", "-p", "high", "-w", "127.0.77.1", "--exclusive", "--mem=1G")
    cluster.run(*hog, "--output=/dev/null", "--wrap", "sleep 2")
    (entry,) = see_through(sweep)
    assert (entry.state, entry.attempt) == ("finished", 2)
    assert resumed_at(sweep, entry) >= 200
    assert each_metric_once(sweep)


def test_a_preempted_pair_of_nodes_stops_at_one_step(cluster: Cluster, tmp_path: Path) -> None:
    sweep = begin(tmp_path, *LONG, *PAIR, "max_steps=600")
    first_steps(sweep)
    job = sweep.ledger().read().submissions[0]["job"]
    cluster.run("scancel", "--signal=USR2", f"{job}_0")
    (entry,) = see_through(sweep)
    assert (entry.state, entry.attempt) == ("finished", 2)
    assert resumed_at(sweep, entry) >= 200
    assert each_metric_once(sweep)


def test_trials_of_a_node_that_goes_down_run_elsewhere(cluster: Cluster, tmp_path: Path) -> None:
    sweep = begin(tmp_path, *LONG, "max_steps=3000", "optimizer.lr=0.01,0.02", "launcher.workers=2")
    first_steps(sweep)
    name = "127.0.77.1"
    cluster.run("scontrol", "update", f"node={name}", "state=down", "reason=test")
    try:
        found = see_through(sweep)
    finally:
        if "down" in cluster.run("sinfo", "-h", "-n", name, "-o", "%T"):  # it may have come back by itself
            cluster.run("scontrol", "update", f"node={name}", "state=resume")
    assert [entry.state for entry in found] == ["finished"] * 2
    assert max(entry.attempt for entry in found) >= 2
    assert each_metric_once(sweep)


def test_a_killed_worker_loses_nothing_and_mlflow_has_each_point_once(cluster: Cluster, runs_dir: Path) -> None:
    tracked = ("tracking=sqlite", "launcher.workers=2")
    sweep = begin(runs_dir, *LONG, "max_steps=3000", "optimizer.lr=0.01,0.02,0.03", *tracked)
    first_steps(sweep)
    sync_sweep(sweep)
    os.kill(_process_of(sweep, entries(sweep)[0].worker), signal.SIGKILL)
    found = see_through(sweep)
    assert [entry.state for entry in found] == ["finished"] * 3
    assert each_metric_once(sweep)
    assert sync_sweep(sweep).failures == ()
    with closing(sqlite3.connect(runs_dir / "mlflow.db")) as connection:
        query = f"select step, count(*) from metrics where key = '{METRIC}' group by step"
        assert connection.execute(query).fetchall() == [(step, 3) for step in range(100, 3001, 100)]
        assert connection.execute("select status, count(*) from runs group by status").fetchall() == [("FINISHED", 4)]


def test_a_killed_rank_and_a_killed_child_end_an_attempt_and_not_the_worker(cluster: Cluster, tmp_path: Path) -> None:
    sweep = begin(tmp_path, *LONG, *PAIR, "max_steps=800")
    for attempt, rank in ((1, 3), (2, 0)):
        wait_until(lambda attempt=attempt: entries(sweep)[0].attempt == attempt, f"attempt {attempt}")  # type: ignore[misc]
        wait_until(lambda attempt=attempt: steps_done(sweep, entries(sweep)[0]) >= 100 * attempt + 100, "a checkpoint")  # type: ignore[misc]
        os.kill(_child_of_rank(sweep, rank), signal.SIGKILL)
    (entry,) = see_through(sweep)
    assert (entry.state, entry.attempt) == ("finished", 3)
    assert len({event["worker"] for event in _events(sweep) if event["event"] == "claimed"}) == 1
    assert [event["failure"] for event in _events(sweep) if event["event"] == "ended"] == ["killed", "killed", None]
    assert each_metric_once(sweep)


def test_the_command_may_be_killed(cluster: Cluster, live: Live, tmp_path: Path) -> None:
    words = (
        *QUICK,
        "tracking=off",
        "launcher=slurm",
        "hardware=local_cluster",
        "launcher.workers=1",
        "optimizer.lr=0.01,0.02",
    )
    process = live.start("run", "-m", *words, *LONG, "max_steps=2000", "sweep.name=probe")
    wait_until(lambda: bool(list(tmp_path.glob("runs/probe/*/attempts/1/journal.jsonl"))), "the first trial")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    sweep = Sweep(tmp_path / "runs" / "probe")
    assert [(entry.state, entry.attempt) for entry in see_through(sweep)] == [("finished", 1)] * 2
    assert each_metric_once(sweep)


def test_trials_share_a_node_side_by_side(cluster: Cluster, tmp_path: Path) -> None:
    packed = (
        "hardware.devices_per_node=2",
        "launcher.devices_per_trial=1",
        "launcher.workers=1",
        "hardware.slurm.gpu_type=h100",
    )
    sweep = begin(tmp_path, *packed, *LONG, "max_steps=1500", "optimizer.lr=0.01,0.02,0.03,0.04")
    assert [entry.state for entry in see_through(sweep)] == ["finished"] * 4
    claimed = [event for event in _events(sweep) if event["event"] == "claimed"]
    assert {(event["worker"], event["devices"]) for event in claimed} == {(claimed[0]["worker"], 1)}
    kinds = [event["event"] for event in _events(sweep) if event["event"] in ("claimed", "ended")]
    assert kinds[:2] == ["claimed", "claimed"]


def test_a_trial_that_takes_too_much_memory_fails_and_keeps_none_from_running(cluster: Cluster, tmp_path: Path) -> None:
    large = ("model=mlp", "model.hidden_sizes=[12000,12000],[32]", "launcher.workers=1")
    found = see_through(begin(tmp_path, *large))
    assert [(entry.state, entry.failure) for entry in found] == [("failed", "out of host memory"), ("finished", None)]
    assert found[0].attempt == 1


def test_the_controller_may_die_and_come_back(cluster: Cluster, tmp_path: Path) -> None:
    sweep = begin(tmp_path, *LONG, "max_steps=3000", "optimizer.lr=0.01,0.02", "launcher.workers=1")
    first_steps(sweep)
    cluster.kill_controller()
    assert reap(sweep, sweep.ledger(), sweep.executor()) == []
    cluster.start_controller()
    assert [(entry.state, entry.attempt) for entry in see_through(sweep)] == [("finished", 1)] * 2
    assert each_metric_once(sweep)


@pytest.mark.timeout(330)
@pytest.mark.skipif(not IS_LONG, reason="takes over two minutes: set LATHE_LONG=1")
def test_a_time_limit_is_no_end(cluster: Cluster, tmp_path: Path) -> None:
    limits = (
        "hardware.slurm.time='00:03:00'",
        "hardware.slurm.signal_delay_s=60",
        "max_steps=10000000",
        "eval_every_steps=1000",
    )
    sweep = begin(tmp_path, *limits, "checkpoint.every_steps=1000", "log_every_steps=1000", "optimizer.lr=0.0001")
    wait_until(lambda: entries(sweep)[0].attempt > 1, "another attempt", 270)
    lines = sweep.ledger().path.read_text().splitlines()
    ended = [event for event in map(json.loads, lines) if event["event"] == "ended"]
    assert ended[0]["failure"] == "time-out"
    assert not ended[0]["wasted"]
    sweep.executor().cancel([sweep.ledger().read().submissions[0]["job"]])


def _events(sweep: Sweep) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sweep.ledger().path.read_text().splitlines()]


def _child_of_rank(sweep: Sweep, rank: int) -> int:
    """The process of a trial's rank: a child of a process that sits on that rank's seat."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_seat = "launchers.slurm_tasks.task" in process.cmdline() and str(sweep.folder) in process.cmdline()
            if is_seat and process.environ().get("SLURM_PROCID") == str(rank):
                parent = process.parent()
                if (
                    parent is not None
                    and "launchers.slurm_tasks.task" in parent.cmdline()
                    and "srun" not in parent.name()
                ):
                    return process.pid
    raise AssertionError(f"no child of rank {rank} in {sweep.folder}")


def _process_of(sweep: Sweep, worker: str) -> int:
    """The process of a worker's first rank, not one of the trials that it has forked."""
    task = worker.rpartition(".")[0]
    for process in psutil.process_iter():
        try:
            environment = process.environ() if "launchers.slurm_tasks.task" in process.cmdline() else {}
            own = f"{environment.get('SLURM_ARRAY_JOB_ID')}_{environment.get('SLURM_ARRAY_TASK_ID')}"
            if own == task and "launchers.slurm_tasks.task" not in (process.parent() or process).cmdline()[:4]:
                return process.pid
        except psutil.Error:
            continue
    raise AssertionError(f"no process of {worker} in {sweep.folder}")
