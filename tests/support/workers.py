"""Sweeps without the command line: the test creates the folder and the ledger, and starts and signals the workers."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from experiments.config.compose import compose
from experiments.run.journal import Journal
from experiments.sweep.expand import expand_point
from experiments.sweep.ledger import Entry
from experiments.sweep.sweep import Sweep
from experiments.sweep.templates import Template, Templates
from experiments.sweep.worker import worker
from experiments.sweep.worker.claims import TrialQueue
from experiments.sweep.worker.reaper import LOST_S
from experiments.trial.trial import create_run_folder, make_provenance
from launchers.base import PLACEMENT_VARIABLE, WORKER_MODULE, WORKER_OPTIONS, RankPlacement
from tests.support.ranks import CONTEXT
from tests.support.waiting import wait_until

QUICK = ("model=softmax", "data=digits", "max_steps=40", "eval_every_steps=20", "checkpoint.every_steps=10")
SPEC: dict[str, Any] = {
    "name": "probe", "description": None, "base": [], "space": {}, "points": [],
    "strategy": {"name": "grid", "seed": 0, "startup_points": 10}, "pruner": None,
    "metric": "val/accuracy_top1", "mode": "max", "num_seeds": 1, "average_over": [],
    "budget": {"max_points": None, "wall_h": None, "device_h": None}, "max_attempts": 4, "reuse": False,
}  # fmt: skip


def make_sweep(
    runs_dir: Path, points: Sequence[Mapping[str, Any]], *overrides: str, trust: Sequence[str] = (), **spec: Any
) -> Sweep:
    """Create a sweep with pending trials. Its workers run the code of this checkout."""
    full_spec = {**SPEC, **spec}
    experiment = compose([*QUICK, "tracking=off", *overrides], trust=trust)
    with create_run_folder(runs_dir, full_spec["name"]) as folder:
        provenance = make_provenance(experiment, folder, runs_dir)
        templates = Templates([Template.from_experiment(experiment, {}, {})], tuple(trust))
        templates.save(folder)
        (folder / "workers").mkdir()
        provenance["worker"] = {"nodes": 1, "devices_per_node": experiment.config["hardware"]["devices_per_node"]}
        provenance["worker_module"], provenance["worker_options"] = WORKER_MODULE, [*WORKER_OPTIONS]
        (folder / "provenance.yaml").write_text(yaml.safe_dump(provenance))
        (folder / "sweep.yaml").write_text(yaml.safe_dump(full_spec))
    sweep = Sweep(folder, tuple(trust))
    ledger = sweep.ledger()
    with ledger.locked() as ledger_state:
        for number, values in enumerate(points):
            ledger.add(list(expand_point(full_spec, templates, ledger_state, number, dict(values))))
    return sweep


class Worker:
    """One process of a worker, forked from a process that has done the slow imports."""

    def __init__(self, sweep: Sweep, placement: RankPlacement, prepare: Callable[[], None] | None) -> None:
        environment = {**os.environ, PLACEMENT_VARIABLE: placement.to_json(), "OMP_NUM_THREADS": "1"}
        log = sweep.folder / "workers" / f"{placement.worker}.txt"
        self._process = CONTEXT.Process(
            target=_work, args=(str(sweep.folder), sweep.trust, str(log), environment, prepare), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, a negative signal number if a signal ended the process; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.poll()
        assert code is not None, f"the worker has not ended in {timeout} s"
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _work(
    folder: str, trust: Sequence[str], log: str, environment: dict[str, str], prepare: Callable[[], None] | None
) -> None:
    """Do what `python -m experiments.sweep.worker.worker FOLDER` does, without the imports."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os.dup2(1, 2)
    os.environ.clear()
    os.environ.update(environment)
    if prepare is not None:
        prepare()
    sys.argv = ["experiments.sweep.worker.worker", folder, *(f"--trust={package}" for package in trust)]
    worker.run_and_exit()


def start_worker(
    sweep: Sweep, name: str = "w", *, prepare: Callable[[], None] | None = None, **placement: Any
) -> Worker:
    """Start one process of a worker. Its output goes to ``workers/NAME.txt``; it calls ``prepare`` before it works."""
    return Worker(sweep, RankPlacement(worker=name, threads=1, **placement), prepare)


def finish_trials(sweep: Sweep) -> list[Entry]:
    """Do what a worker does, without a training: the value of a trial is its learning rate."""
    ledger = sweep.ledger()
    queue = TrialQueue(sweep, ledger, sweep.templates(), None, worker="w", devices=1)
    while (claim := queue.claim()) is not None:
        value = float(claim.trial.config["optimizer"]["lr"])
        with Journal(claim.trial.folder / "attempts" / str(claim.attempt) / "journal.jsonl") as journal:
            journal.state("running", step=0, attempt=claim.attempt)
            journal.metrics(
                40, {"val/accuracy_top1": value, "val/loss_nats": 1.0, "delivered/val/accuracy_top1": value}
            )
            journal.state("finished", step=40, attempt=claim.attempt)
        with ledger.locked():
            ledger.end(claim.entry.id, claim.attempt, "finished", value=value, step=40)
    return read_entries(sweep)


def read_entries(sweep: Sweep) -> list[Entry]:
    return list(sweep.ledger().read().entries.values())


def wait_for_child(worker: Worker) -> int:
    """Wait until a worker runs a trial; returns the process id of the trial."""
    children: list[int] = []

    def has_child() -> bool:
        children[:] = [process.pid for process in psutil.Process(worker.pid).children()]
        return bool(children)

    wait_until(has_child, "a trial's process")
    return children[0]


def read_last_step(sweep: Sweep, entry: Entry) -> int:
    """The last step in the journal of the newest attempt."""
    paths = sorted((sweep.folder / entry.id / "attempts").glob("*/journal.jsonl"))
    lines = paths[-1].read_text().splitlines() if paths else []
    return max((event.get("step", 0) for event in map(json.loads, lines)), default=0)


def is_training(process: psutil.Process) -> bool:
    """Whether the process of a trial lives; one that has ended may wait for its parent."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def age_heartbeats(sweep: Sweep, by_s: float = 2 * LOST_S) -> None:
    """Make the heartbeats of a killed worker old, so that the next worker takes over immediately."""
    then = time.time() - by_s
    for entry in read_entries(sweep):
        if entry.state == "running":
            with suppress(FileNotFoundError):
                os.utime(sweep.folder / entry.id / "attempts" / str(entry.attempt) / "heartbeat", (then, then))


def kill_worker(worker: Worker) -> None:
    worker.send_signal(signal.SIGKILL)
    worker.wait()
