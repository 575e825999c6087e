"""Sweeps by hand: a folder with a ledger, and workers that the test starts, signals and waits for itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from experiments.claims import trials_of
from experiments.compose import compose
from experiments.ledger import Entry
from experiments.reaping import LOST_S
from experiments.sweep import Sweep
from experiments.templates import Template, Templates
from experiments.trial import new_folder, provenance_of
from launchers.base import Seat

QUICK = ("model=softmax", "data=digits", "max_steps=40", "eval_every_steps=20", "checkpoint.every_steps=10")
QUESTION: dict[str, Any] = {
    "name": "probe", "note": None, "base": [], "space": {}, "given": [],
    "strategy": {"name": "grid", "seed": 0, "startup_points": 10, "storage": None}, "pruner": None,
    "metric": "val/accuracy_top1", "mode": "max", "seeds": 1,
    "budget": {"points": None, "wall_h": None, "device_h": None}, "max_attempts": 4, "reuse": False,
}  # fmt: skip


def make_sweep(
    runs_dir: Path, points: Sequence[Mapping[str, Any]], *overrides: str, trust: Sequence[str] = (), **question: Any
) -> Sweep:
    """A sweep whose trials wait; its workers run this checkout's code."""
    asked = {**QUESTION, **question}
    experiment = compose([*QUICK, "tracking=off", *overrides], trust=trust)
    with new_folder(runs_dir, asked["name"]) as folder:
        provenance = provenance_of(experiment, folder, runs_dir)
        templates = Templates([Template.of(experiment, {}, {})], tuple(trust))
        templates.save(folder)
        (folder / "workers").mkdir()
        provenance["worker"] = {"nodes": 1, "devices_per_node": experiment.config["hardware"]["devices_per_node"]}
        (folder / "provenance.yaml").write_text(yaml.safe_dump(provenance))
        (folder / "sweep.yaml").write_text(yaml.safe_dump(asked))
    sweep = Sweep(folder)
    ledger = sweep.ledger()
    with ledger.locked() as standing:
        for number, values in enumerate(points):
            ledger.add(list(trials_of(asked, templates, standing, number, dict(values), None)))
    return sweep


def start_worker(sweep: Sweep, name: str = "w", **seat: Any) -> subprocess.Popen[bytes]:
    """One process of a worker; what it prints goes to ``workers/NAME.txt``."""
    told = Seat(worker=name, threads=1, **seat)
    environment = {**os.environ, "LATHE_SEAT": json.dumps(asdict(told)), "OMP_NUM_THREADS": "1"}
    with (sweep.folder / "workers" / f"{name}.txt").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "experiments.worker", str(sweep.folder)],
            env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def entries(sweep: Sweep) -> list[Entry]:
    return list(sweep.ledger().look().entries.values())


def wait_until(is_so: Callable[[], bool], what: str, timeout_s: float = 90) -> None:
    """Wait for something, for so long at most."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"{what} has not come in {timeout_s:.0f} s"
        time.sleep(0.05)


def child_of(worker: subprocess.Popen[bytes]) -> int:
    """The process of the trial that a worker runs; waits for one."""
    import psutil

    found: list[int] = []

    def look() -> bool:
        found[:] = [process.pid for process in psutil.Process(worker.pid).children()]
        return bool(found)

    wait_until(look, "a trial's process")
    return found[0]


def steps_done(sweep: Sweep, entry: Entry) -> int:
    """The last step that the newest attempt's journal tells of."""
    paths = sorted((sweep.folder / entry.id / "attempts").glob("*/journal.jsonl"))
    lines = paths[-1].read_text().splitlines() if paths else []
    return max((event.get("step", 0) for event in map(json.loads, lines)), default=0)


def fall_silent(sweep: Sweep) -> None:
    """Age the heartbeats of a worker that is gone, so that the next one need not wait until they are old."""
    then = time.time() - 2 * LOST_S
    for entry in entries(sweep):
        if entry.state == "running":
            os.utime(sweep.folder / entry.id / "attempts" / str(entry.attempt) / "heartbeat", (then, then))


def end(worker: subprocess.Popen[bytes]) -> None:
    if worker.poll() is None:
        os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
