"""Asynchronous runs in which replicas, servers and the coordinator are killed."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from experiments.run import journal
from tests.support.live import Live
from tests.support.waiting import PATIENCE_S, wait_until

if TYPE_CHECKING:
    from tests.conftest import Lathe

SMALL = (
    "tracking=off", "model=mlp", "model.hidden_sizes=[64,48]", "batch_size_global=24", "log_every_steps=5", "optimizer=sgd",
    "optimizer.lr=0.002", "system_every_s=null", "eval_every_steps=1000", "checkpoint.every_steps=1000",
)  # fmt: skip
TWO = "hardware.devices_per_node=2"


def read_metrics(folder: Path, attempt: int) -> dict[str, list[float]]:
    """Return the values of every metric in the order of an attempt's journal."""
    metrics: dict[str, list[float]] = {}
    for event in journal.read(folder / "attempts" / str(attempt) / "journal.jsonl")[0]:
        for key, value in event["metrics"].items() if event["event"] == "metrics" else ():
            metrics.setdefault(key, []).append(value)
    return metrics


def find_pid(live: Live, role: str) -> int | None:
    """Return the process id of a role; None if it does not run."""
    for pid in live.processes():
        try:
            if psutil.Process(pid).name() == role:
                return pid
        except psutil.NoSuchProcess:
            continue
    return None


def kill(live: Live, role: str) -> None:
    """Kill the process of a role, and wait until another one has started."""
    victim = wait_until(lambda: find_pid(live, role), role)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: find_pid(live, role) not in (None, victim), f"another {role}")


@pytest.mark.slow
def test_killed_replicas_and_servers_restart_and_a_killed_coordinator_ends_the_attempt(live: Live) -> None:
    process = live.start("run", *SMALL, "max_steps=100000", "parallel=async", "parallel.num_servers=2",
                         "parallel.snapshot_every_steps=10", "parallel.delays_s={0: 0.02, 1: 0.02}", TWO)  # fmt: skip
    live.at_step(20)
    folder = live.run_folder()

    def last_value(metric: str, attempt: int = 1) -> float | None:
        return read_metrics(folder, attempt).get(metric, [None])[-1]

    def until_steps(more: int, attempt: int = 1) -> None:
        done = len(read_metrics(folder, attempt)["train/loss_nats"])
        wait_until(lambda: len(read_metrics(folder, attempt)["train/loss_nats"]) > done + more // 5, "more steps")

    wait_until(lambda: last_value("async/replicas") == 2, "two replicas")
    kill(live, "replica 1")
    until_steps(20)
    wait_until(lambda: last_value("async/replicas") == 2, "two replicas")  # it has restarted and works
    wait_until(lambda: last_value("async/replica_1_examples_per_s"), "work of replica 1")
    kill(live, "server 1")
    wait_until(lambda: last_value("async/restarts") == 1, "the restart")
    until_steps(20)
    lost = last_value("async/lost_updates")
    assert lost is not None
    assert 0 <= lost <= 10
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 1
    live.until_nothing_runs()
    stopped = re.search(r"interrupted: SIGTERM after step (\d+), which is saved", live.printed())
    assert stopped, live.printed()
    assert "replica 1 was ended by SIGKILL; it is restarted" in live.printed()
    losses = read_metrics(folder, 1)["train/loss_nats"]
    assert sum(losses[-3:]) < sum(losses[:3]), "training makes progress in spite of the kills"

    process = live.start("resume", folder.name, "parallel=hybrid")
    live.at_step(int(stopped[1]) + 20, attempt=2)
    kill(live, "replica 1")  # a member of the only group, which is formed again
    until_steps(20, attempt=2)
    coordinator = wait_until(lambda: find_pid(live, "coordinator"), "the coordinator")
    os.kill(coordinator, signal.SIGKILL)
    assert process.wait(PATIENCE_S) == 1
    live.until_nothing_runs()
    assert "killed: rank 0 was ended by SIGKILL" in live.printed()
    assert "coordinator was ended by SIGKILL, and the attempt ends with it" in live.printed()
    assert "frame #0" not in live.printed()
    assert "Traceback" not in live.printed()


def read_results(folder: Path) -> dict[str, list[float]]:
    """Return the training, validation and test metrics."""
    metrics = read_metrics(folder, 1)
    return {key: values for key, values in metrics.items() if key.startswith(("train/", "val/", "test/"))}


@pytest.mark.slow
def test_a_run_with_one_replica_is_bit_identical_to_a_run_of_one_process(lathe: Lathe, tmp_path: Path) -> None:
    same = ("tracking=off", "model=mlp", "model.dropout_prob=0.3", "max_steps=12", "eval_every_steps=5", "log_every_steps=3",
            "checkpoint.every_steps=4", "batch_size_per_device=16", "grad_clip_norm=1.0", "schedule=cosine")  # fmt: skip
    folders = []
    for parallel in ("single", "async"):
        done = lathe("run", *same, f"parallel={parallel}", f"runs_dir={tmp_path / parallel}")
        assert done.returncode == 0, done.stderr
        folders.append(next((tmp_path / parallel).glob("single/*")))
    assert read_results(folders[1]) == read_results(folders[0])
    assert "cost/cpu_s" in read_metrics(folders[0], 1)
    assert "cost/cpu_s" not in read_metrics(folders[1], 1)  # the coordinator does not see the CPU time of replicas
    weights = [
        path.read_bytes() for folder in folders for path in folder.glob("checkpoints/step_00000012/model.safetensors")
    ]
    assert len(weights) == 2
    assert weights[0] == weights[1]
    assert read_metrics(folders[1], 1)["async/staleness_max"][-1] == 0
