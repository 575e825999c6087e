"""What the commands of sweeps do: ask the question, go on with it, and stay to show it."""

from __future__ import annotations

import argparse
import shutil
import sys
from typing import TYPE_CHECKING

from experiments.components.instantiate import instantiate
from experiments.core.console import console
from experiments.sweep.create import SweepDraft, check_storage, extend, prepare, write
from experiments.sweep.ledger import LedgerState
from experiments.sweep.spec import SweepSpec
from experiments.sweep.submit import num_todo, pool_of, requeue, submit
from experiments.sweep.sweep import Sweep
from experiments.trial.trial import runs_dir_of
from launchers.base import Executor, LaunchError, WorkerPool

if TYPE_CHECKING:
    from experiments.config.experiment import Experiment


def ask(question: SweepSpec, asked: argparse.Namespace, experiment: Experiment | None = None) -> int:
    """Freeze a sweep, start its workers, and show it until it ends.

    Args:
        question: what is asked.
        asked: the words of the command.
        experiment: what its one trial is of; None: what the question's overrides compose.
    """
    found = prepare(question, config_dirs=asked.config_dir, trust=asked.trust, experiment=experiment)
    if found.templates.all[0].config["launcher"].get("dry"):
        return _show_dry(found)
    sweep = write(found)
    for warning in sweep.provenance["warnings"]:
        _say(f"warning: {warning}")
    try:
        return _work(sweep, asked)
    except LaunchError:
        if not sweep.ledger().look().submissions and not any(sweep.folder.glob("workers/*.sh")):
            shutil.rmtree(sweep.folder)  # it was refused whole, and nothing of it has run
        raise


def go_on(sweep: Sweep, asked: argparse.Namespace) -> int:
    """Run what of a sweep is missing, failed or lost, and what it is extended by."""
    from experiments.sweep.worker.reaper import reap

    check_storage(sweep.folder, sweep.question)
    reap(sweep, sweep.ledger(), sweep.executor())
    new = extend(sweep, asked.overrides)
    sweep = Sweep(sweep.folder)
    waiting = requeue(sweep)
    if asked.overrides:
        _say(f"{new} trials are new, {waiting} wait")
    return _work(sweep, asked)


def _work(sweep: Sweep, asked: argparse.Namespace) -> int:
    """Start workers for what is to be run, and stay to see it unless it was asked not to."""
    from experiments.sweep.status.tables import live
    from experiments.tracking import follow_sweep
    from experiments.tracking.mlflow_view import ui_hint

    standing = sweep.ledger().look()
    pool = submit(sweep)
    if pool is None:
        _say(
            f"sweep {sweep.name}: nothing is left to run ({len(standing.entries)} trials); `lathe status {sweep.name}`"
        )
    else:
        _say(f"sweep {sweep.name} in {sweep.folder}: {_numbers(sweep, standing)}")
    follow_sweep.start(sweep)
    if asked.detach:
        _say(f"`lathe status {sweep.name}` shows it, `lathe cancel {sweep.name}` ends it")
        return 0
    return live(sweep, sweep.executor(), ui_hint)


def _numbers(sweep: Sweep, standing: LedgerState) -> str:
    todo = num_todo(sweep.question, standing)
    known = f"{todo} trials" if todo else "trials"
    job = sweep.ledger().look().submissions[-1]["job"]
    return f"{known}, job {job}"


def _show_dry(found: SweepDraft) -> int:
    """Print what would be submitted, how much of it, and what it may cost at most."""
    config = found.templates.all[0].config
    asked = found.question.asked
    hardware = found.experiment.config["hardware"]
    worker = {key: hardware[key] for key in ("nodes", "devices_per_node")}
    standing = LedgerState()
    for trial in found.trials:
        standing.apply({"event": "trial", "time": 0.0, **trial})
    todo = num_todo(asked, standing)
    folder = runs_dir_of(found.experiment.config) / str(asked["name"])
    pool = pool_of(folder, found.templates, worker, asked, max(1, todo))
    executor: Executor = instantiate(config["launcher"], "launcher", found.templates.trust)
    print(executor.describe(pool))
    print(f"\n{_cost(pool, executor, todo)}", file=sys.stderr)
    return 0


def _cost(pool: WorkerPool, executor: Executor, todo: int) -> str:
    from experiments.config.rules.slurm import most_device_h

    tasks = executor.count_workers(pool)
    told = f"{todo} trials, {tasks} tasks of {pool.nodes} nodes x {pool.devices_per_node} devices"
    if pool.slurm is None:
        return told
    hours = most_device_h(tasks, pool.nodes, pool.devices_per_node, pool.slurm["time"])
    return f"{told}, at most {hours:,.1f} device-hours (time limit {pool.slurm['time']})"


def _say(line: str) -> None:
    console().print(line, highlight=False, markup=False, soft_wrap=True)
