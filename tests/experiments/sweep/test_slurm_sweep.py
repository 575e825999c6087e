"""Sweeps on a real SLURM cluster: preemption, lost nodes, killed processes, time limits."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
from collections import Counter
from contextlib import closing
from itertools import accumulate
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
from experiments.tracking.sweep_sync import SweepSync
from tests.support.cluster import Cluster
from tests.support.live import Live
from tests.support.variants import IS_LONG
from tests.support.waiting import PATIENCE_S, wait_until
from tests.support.workers import QUICK, make_sweep, read_entries, read_last_step, start_worker

pytestmark = pytest.mark.slow

METRIC = "val/accuracy_top1"
LONG = ("eval_every_steps=100", "checkpoint.every_steps=100", "log_every_steps=100")
PAIR = ("parallel=data", "hardware.nodes=2", "hardware.devices_per_node=2")


def submit_sweep(folder: Path, *overrides: str, name: str = "probe") -> Sweep:
    """Create a sweep and submit its workers. The nodes of the test cluster are this machine, so they see its folder."""
    shared = (*QUICK, "tracking=off", f"runs_dir={folder}", "launcher=slurm", "hardware=local_cluster")
    sweep = write(prepare(read_overrides([*shared, *overrides], name=name)))
    assert submit(sweep) is not None
    return sweep


def wait_for_end(sweep: Sweep) -> list[Entry]:
    """Reap lost workers, as an attached `lathe sweep` does, until no trial is pending or running."""
    ledger, executor = sweep.ledger(), sweep.executor()

    def is_over() -> bool:
        if {entry.state for entry in read_entries(sweep)}.isdisjoint(("pending", "running")):
            return True
        reap(sweep, ledger, executor)
        return False

    def describe() -> object:
        return [(entry.id, entry.state, entry.reason) for entry in read_entries(sweep)]

    wait_until(is_over, describe, pause_s=1)
    return read_entries(sweep)


def has_each_metric_once(sweep: Sweep) -> bool:
    """Whether the replay of every trial has every point of the metric exactly once."""
    for entry in read_entries(sweep):
        events = journal.replay(sweep.folder / entry.id)
        steps = Counter(event["step"] for event in events if event["event"] == "metrics" and METRIC in event["metrics"])
        config = sweep.templates().fill(entry.values, entry.seed)[0]
        every = config["eval_every_steps"]
        if steps != Counter(range(every, config["max_steps"] + 1, every)):
            return False
    return True


def wait_for_checkpoint(sweep: Sweep, number: int = 0) -> None:
    """Wait until a trial has a checkpoint."""
    wait_until(lambda: read_last_step(sweep, read_entries(sweep)[number]) >= 200, "step 200")


def read_resume_step(sweep: Sweep, entry: Entry) -> int:
    lines = (sweep.folder / entry.id / "attempts" / str(entry.attempt) / "journal.jsonl").read_text().splitlines()
    return next(int(event["step"]) for event in map(json.loads, lines) if event["event"] == "state")


def test_ranks_on_two_nodes_give_the_result_of_one_process(cluster: Cluster, tmp_path: Path) -> None:
    spread = submit_sweep(tmp_path, *PAIR, name="spread")
    served = submit_sweep(
        tmp_path, *PAIR, "parallel=async", "parallel.num_servers=2", "parallel.max_staleness=0", name="served"
    )
    alone = make_sweep(tmp_path, [{}], name="alone")
    assert start_worker(alone).wait(timeout=PATIENCE_S) == 0
    results = [wait_for_end(sweep) for sweep in (spread, served)]
    assert [entry.state for some in results for entry in some] == ["finished"] * 2
    for sweep in (spread, served):
        assert read_entries(sweep)[0].value == pytest.approx(read_entries(alone)[0].value)
    logs = sorted((spread.folder / read_entries(spread)[0].id / "attempts" / "1").glob("log*.txt"))
    assert len(logs) == 4


def test_preempted_trial_resumes_from_its_checkpoint(cluster: Cluster, tmp_path: Path) -> None:
    sweep = submit_sweep(tmp_path, *LONG, "max_steps=6000", "hardware.slurm.sbatch={nodelist: 127.0.77.1}")
    wait_for_checkpoint(sweep)
    hog = ("sbatch", "--parsable", "-p", "high", "-w", "127.0.77.1", "--exclusive", "--mem=1G")
    cluster.run(*hog, "--output=/dev/null", "--wrap", "sleep 2")
    (entry,) = wait_for_end(sweep)
    assert (entry.state, entry.attempt) == ("finished", 2)
    assert read_resume_step(sweep, entry) >= 200
    assert has_each_metric_once(sweep)


def test_trials_of_a_failed_node_run_on_another_node(cluster: Cluster, tmp_path: Path) -> None:
    sweep = submit_sweep(tmp_path, *LONG, "max_steps=3000", "optimizer.lr=0.01,0.02", "launcher.workers=2")
    wait_for_checkpoint(sweep)
    name = "127.0.77.1"
    cluster.run("scontrol", "update", f"node={name}", "state=down", "reason=test")
    try:
        results = wait_for_end(sweep)
    finally:
        if "down" in cluster.run("sinfo", "-h", "-n", name, "-o", "%T"):  # the node may be back already
            cluster.run("scontrol", "update", f"node={name}", "state=resume")
    assert [entry.state for entry in results] == ["finished"] * 2
    assert max(entry.attempt for entry in results) >= 2
    assert has_each_metric_once(sweep)


def test_killed_worker_loses_no_points_and_mlflow_has_each_once(cluster: Cluster, runs_dir: Path) -> None:
    tracked = ("tracking=sqlite", "launcher.workers=2")
    sweep = submit_sweep(runs_dir, *LONG, "max_steps=3000", "optimizer.lr=0.01,0.02,0.03", *tracked)
    wait_for_checkpoint(sweep)
    worker = _process_of(sweep, read_entries(sweep)[0].worker)
    os.kill(worker, signal.SIGSTOP)  # so that it does not end during the sync
    SweepSync(sweep).sync()
    os.kill(worker, signal.SIGKILL)
    results = wait_for_end(sweep)
    assert [entry.state for entry in results] == ["finished"] * 3
    assert has_each_metric_once(sweep)
    assert SweepSync(sweep).sync().failures == ()
    with closing(sqlite3.connect(runs_dir / "mlflow.db")) as connection:
        query = f"select step, count(*) from metrics where key = '{METRIC}' group by step"
        assert connection.execute(query).fetchall() == [(step, 3) for step in range(100, 3001, 100)]
        assert connection.execute("select status, count(*) from runs group by status").fetchall() == [("FINISHED", 4)]


def test_ranks_on_two_nodes_survive_a_killed_rank_and_stop_together_when_preempted(
    cluster: Cluster, tmp_path: Path
) -> None:
    sweep = submit_sweep(tmp_path, *LONG, *PAIR, "max_steps=1000", "sweep.max_attempts=6")

    def wait_for(attempt: int) -> None:
        wait_until(lambda: read_entries(sweep)[0].attempt == attempt, f"attempt {attempt}")
        wait_until(lambda: read_last_step(sweep, read_entries(sweep)[0]) >= 100 * attempt + 100, "a checkpoint")

    for attempt, rank in ((1, 3), (2, 0)):
        wait_for(attempt)
        os.kill(_child_of_rank(sweep, rank), signal.SIGKILL)
    wait_for(3)
    job = sweep.ledger().read().submissions[0]["job"]
    cluster.run("scancel", "--signal=USR2", f"{job}_0")
    (entry,) = wait_for_end(sweep)
    assert (entry.state, entry.attempt) == ("finished", 4)
    workers = [event["worker"] for event in _events(sweep) if event["event"] == "claimed"]
    assert [worker == workers[0] for worker in workers] == [True, True, True, False]
    failures = [event["failure"] for event in _events(sweep) if event["event"] == "ended"]
    assert failures == ["killed", "killed", "preempted", None]
    assert read_resume_step(sweep, entry) >= 400
    assert has_each_metric_once(sweep)


def test_sweep_continues_without_its_command_and_its_controller(cluster: Cluster, live: Live, tmp_path: Path) -> None:
    slurm = ("tracking=off", "launcher=slurm", "hardware=local_cluster", "launcher.workers=1")
    process = live.start(
        "run", "-m", *QUICK, *slurm, *LONG, "max_steps=3000", "optimizer.lr=0.01,0.02", "sweep.name=probe"
    )
    wait_until(lambda: bool(list(tmp_path.glob("runs/probe/*/attempts/1/journal.jsonl"))), "the first trial")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    sweep = Sweep(tmp_path / "runs" / "probe")
    cluster.kill_controller()
    assert reap(sweep, sweep.ledger(), sweep.executor()) == []
    cluster.start_controller()
    assert [(entry.state, entry.attempt) for entry in wait_for_end(sweep)] == [("finished", 1)] * 2
    assert has_each_metric_once(sweep)


def test_trials_run_in_parallel_on_one_node(cluster: Cluster, tmp_path: Path) -> None:
    packed = (
        "hardware.devices_per_node=2",
        "launcher.devices_per_trial=1",
        "launcher.workers=1",
        "hardware.slurm.gpu_type=h100",
    )
    sweep = submit_sweep(tmp_path, *packed, *LONG, "max_steps=4000", "optimizer.lr=0.01,0.02", "sweep.num_seeds=2")
    results = wait_for_end(sweep)
    assert [entry.state for entry in results] == ["finished"] * 4
    assert has_each_metric_once(sweep)
    assert {entry.seed for entry in results} == {0, 1}
    assert all(entry.worker.startswith(f"{sweep.ledger().read().submissions[0]['job']}_") for entry in results)
    claimed = [event for event in _events(sweep) if event["event"] == "claimed"]
    assert {(event["worker"], event["devices"]) for event in claimed} == {(claimed[0]["worker"], 1)}
    changes = [{"claimed": 1, "ended": -1}.get(event["event"], 0) for event in _events(sweep)]
    assert max(accumulate(changes)) == 2  # at any time: on a busy machine one process starts seconds after the other


def test_trial_out_of_memory_fails_and_others_run(cluster: Cluster, tmp_path: Path) -> None:
    large = ("model=mlp", "model.hidden_sizes=[12000,12000],[32]", "launcher.workers=1")
    results = wait_for_end(submit_sweep(tmp_path, *large))
    assert [(entry.state, entry.failure) for entry in results] == [("failed", "out of host memory"), ("finished", None)]
    assert results[0].attempt == 1


@pytest.mark.skipif(not IS_LONG, reason="takes over two minutes: set LATHE_LONG=1")
def test_trial_resumes_after_the_time_limit(cluster: Cluster, tmp_path: Path) -> None:
    limits = (
        "hardware.slurm.time='00:03:00'",
        "hardware.slurm.signal_delay_s=60",
        "max_steps=10000000",
        "eval_every_steps=1000",
    )
    sweep = submit_sweep(
        tmp_path, *limits, "checkpoint.every_steps=1000", "log_every_steps=1000", "optimizer.lr=0.0001"
    )
    wait_until(lambda: read_last_step(sweep, read_entries(sweep)[0]) > 0, "the first attempt")
    wait_until(lambda: read_entries(sweep)[0].attempt > 1, "another attempt")
    lines = sweep.ledger().path.read_text().splitlines()
    ended = [event for event in map(json.loads, lines) if event["event"] == "ended"]
    assert ended[0]["failure"] == "time-out"
    assert not ended[0]["wasted"]
    sweep.executor().cancel([sweep.ledger().read().submissions[0]["job"]])


def _events(sweep: Sweep) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sweep.ledger().path.read_text().splitlines()]


def _child_of_rank(sweep: Sweep, rank: int) -> int:
    """The process of a trial's rank: a child of the task of that rank."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_task = "launchers.slurm_tasks.task" in process.cmdline() and str(sweep.folder) in process.cmdline()
            if is_task and process.environ().get("SLURM_PROCID") == str(rank):
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
