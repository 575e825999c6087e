"""Sweeps without workers: folders with a ledger and journals, which the test writes as workers do."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.run.journal import Journal
from experiments.sweep.ledger import Entry, State
from experiments.sweep.sweep import Sweep
from launchers.base import WORKER_MODULE
from tests.support.workers import SPEC

MAX_STEPS = 200


def make_idle_sweep(
    runs_dir: Path, name: str, points: Sequence[Mapping[str, Any]], seeds: int = 1, **spec: Any
) -> Sweep:
    """Create a sweep with pending trials. Their ids are ``b00000000000`` and so on, ordered by point, then by seed."""
    folder = runs_dir / name
    (folder / "workers").mkdir(parents=True)
    config = {"max_steps": MAX_STEPS, "launcher": {"_target_": "launchers.local.Local"}}
    template = {"choices": {}, "config": config, "links": {}, "overrides": []}
    (folder / "templates.json").write_text(json.dumps([template]))
    (folder / "provenance.yaml").write_text(
        yaml.safe_dump({"run_key": "key", "trust": [], "config_dirs": [], "worker_module": WORKER_MODULE})
    )
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**SPEC, "name": name, "num_seeds": seeds, **spec}))
    sweep = Sweep(folder)
    trials = [(point, values, seed) for point, values in enumerate(points) for seed in range(seeds)]
    ledger = sweep.ledger()
    with ledger.locked():
        ledger.add(
            {"trial": f"b{number:011}", "point": point, "values": dict(values), "seed": seed, "reused": None}
            for number, (point, values, seed) in enumerate(trials)
        )  # fmt: skip
    return sweep


def read_entry(sweep: Sweep, trial: str) -> Entry:
    return sweep.ledger().read().entries[trial]


def attempt_folder(sweep: Sweep, trial: str) -> Path:
    """The folder of the last attempt of a trial."""
    return sweep.folder / trial / "attempts" / str(read_entry(sweep, trial).attempt)


def claim_trial(sweep: Sweep, trial: str, worker: str = "w", *, beats: bool = True) -> Path:
    """Claim a trial for a worker; returns the folder of the attempt."""
    ledger = sweep.ledger()
    with ledger.locked() as ledger_state:
        ledger.claim(ledger_state.entries[trial], worker=worker, host="node7", devices=2)
    folder = attempt_folder(sweep, trial)
    if beats:
        folder.mkdir(parents=True)
        (folder / "heartbeat").touch()
    return folder


def log_metric(sweep: Sweep, trial: str, steps: Mapping[int, float], metric: str = "val/accuracy_top1") -> None:
    """Write values of the metric by step, and points of a training curve, into the journal of a trial."""
    with Journal(attempt_folder(sweep, trial) / "journal.jsonl") as journal:
        if not journal.path.stat().st_size:
            journal.state("running", step=0, attempt=read_entry(sweep, trial).attempt)
            journal.params({"plan.num_steps": MAX_STEPS})
        for step, value in steps.items():
            journal.metrics(step - 1, {"train/loss_nats": 1.0})
            journal.metrics(step, {metric: value})


def end_trial(sweep: Sweep, trial: str, state: State, **fields: Any) -> None:
    ledger = sweep.ledger()
    with ledger.locked() as ledger_state:
        assert ledger.end(trial, ledger_state.entries[trial].attempt, state, **fields)


def finish_trial(sweep: Sweep, trial: str, value: float) -> None:
    """Finish a trial, and claim it before if it is pending."""
    if read_entry(sweep, trial).state == "pending":
        claim_trial(sweep, trial)
    end_trial(sweep, trial, "finished", value=value, step=MAX_STEPS)


def age_file(path: Path, seconds: float) -> None:
    """Set the modification time of a file to some seconds ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def shift_events(sweep: Sweep, seconds: float, which: Callable[[dict[str, Any]], bool] = lambda event: True) -> None:
    """Move events of the ledger some seconds into the past."""
    events = [json.loads(line) for line in (sweep.folder / "ledger.jsonl").read_text().splitlines()]
    for event in events:
        event["time"] -= seconds if which(event) else 0.0
    (sweep.folder / "ledger.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))


def ids(count: int) -> list[str]:
    return [f"b{number:011}" for number in range(count)]
