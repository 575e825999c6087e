"""Submits the workers of a sweep."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.sweep.expand import count_trials_per_point
from experiments.sweep.ledger import Ledger, LedgerState
from experiments.sweep.strategies.make_strategy import is_adaptive
from experiments.sweep.sweep import Sweep
from experiments.sweep.templates import Templates
from experiments.trial.code_copy import CODE
from launchers.base import Executor, LaunchError, SubmissionUnclearError, WorkerPool

MAX_RESTARTS = 3
"""How often in a row an attached command starts the workers again without a trial that ends in between."""


def retry_unfinished(sweep: Sweep) -> int:
    """Make every trial that ended without a result pending again; returns the number of pending trials."""
    ledger = sweep.ledger()
    with ledger.locked() as ledger_state:
        ledger.retry([entry.id for entry in ledger_state.entries.values() if entry.state in ("failed", "cancelled")])
        if ledger_state.closed is not None:
            ledger.reopen()
        return sum(entry.state == "pending" for entry in ledger_state.entries.values())


def make_pool(
    sweep_folder: Path, templates: Templates, worker: dict[str, int], spec: dict[str, Any], todo: int,
    provenance: Mapping[str, Any],
) -> WorkerPool:  # fmt: skip
    """The pool of workers for a number of trials.

    Args:
        sweep_folder: of the sweep; it need not exist yet.
        templates: of the sweep.
        worker: nodes and devices_per_node of one worker.
        spec: of the sweep.
        todo: number of trials to run.
        provenance: of the sweep, which says how its copy of the code starts a worker.

    Raises:
        LaunchError: Python cannot import code from the folder.
    """
    if os.pathsep in str(sweep_folder):
        raise LaunchError(
            f"{sweep_folder} has a '{os.pathsep}', which separates folders in PYTHONPATH, so workers could not import the code "
            "of the sweep; choose another runs_dir or sweep.name"
        )
    config = templates.all[0].config
    hardware, launcher = config["hardware"], config["launcher"]
    per_node, whole = hardware["devices_per_node"], worker["devices_per_node"]
    side_by_side = launcher.get("trials_per_device") or 1
    trials_per_worker = side_by_side * (1 if per_node == whole else worker["nodes"] * (whole // per_node))
    return WorkerPool(
        folder=sweep_folder,
        code=sweep_folder / CODE,
        name=spec["name"],
        max_workers=max(1, -(-todo // trials_per_worker)),
        nodes=worker["nodes"],
        devices_per_node=whole,
        ranks_per_node=per_node,
        trials_per_worker=trials_per_worker,
        device=hardware["device"],
        threads_per_rank=hardware["cpu_threads"],
        slurm=hardware["slurm"],
        trust=templates.trust if "--trust" in provenance.get("worker_options", ()) else (),
        worker_module=provenance.get("worker_module"),
    )


def count_todo(spec: dict[str, Any], ledger_state: LedgerState) -> int:
    """Number of pending trials, and of those that the strategy may still choose."""
    pending = sum(entry.state == "pending" for entry in ledger_state.entries.values())
    if not is_adaptive(spec["strategy"]):
        return pending
    left: int = spec["budget"]["max_points"] - len(ledger_state.points)
    return pending + max(0, left) * count_trials_per_point(spec)


class WorkerRestarts:
    """Decides whether workers that have all died are started again: a few times, unless trials end in between."""

    def __init__(self, start: Callable[[], object]) -> None:
        self._start = start
        self._in_a_row, self._num_ended = 0, 0

    def __call__(self, num_ended: int) -> str | None:
        """Start the workers again.

        Args:
            num_ended: how many trials have ended.

        Returns:
            A line for the user; None if they have been started `MAX_RESTARTS` times without another trial that ended.

        Raises:
            LaunchError: the machine refuses.
        """
        self._in_a_row = 0 if num_ended > self._num_ended else self._in_a_row
        self._num_ended = num_ended
        if self._in_a_row == MAX_RESTARTS:
            return None
        self._in_a_row += 1
        self._start()
        return f"no worker is left, although trials are pending; workers are started again ({self._in_a_row} of {MAX_RESTARTS})"


def submit(sweep: Sweep) -> WorkerPool | None:
    """Start workers for the trials to run; None if there are none. Workers of a submission without an answer count.

    Raises:
        LaunchError: the machine or the scheduler refuses.
    """
    ledger = sweep.ledger()
    todo = count_todo(sweep.spec, ledger.read())
    if todo == 0:
        return None
    executor, pool = sweep.executor(), _make_pool(sweep, todo)
    if find_submitted(sweep, ledger, executor):
        return pool
    with ledger.locked():
        ledger.begin_submission(executor.count_workers(pool))
    try:
        job = executor.submit(pool)
    except SubmissionUnclearError:
        raise
    except LaunchError:
        with ledger.locked():
            ledger.record_refusal()
        raise
    with ledger.locked():
        ledger.record_submission(job, executor.count_workers(pool))
    return pool


def find_submitted(sweep: Sweep, ledger: Ledger, executor: Executor) -> list[str]:
    """Record the jobs of a submission that had no answer; returns those that the ledger did not know.

    Raises:
        LaunchError: the scheduler does not answer.
    """
    if not ledger.read().is_submitting:
        return []
    pool = _make_pool(sweep, 1)
    known = {str(submission["job"]) for submission in ledger.state.submissions}
    jobs = [job for job in executor.find_jobs(pool) if job not in known]
    with ledger.locked():
        for job in jobs:
            ledger.record_submission(job, executor.count_workers(pool))
    return jobs


def _make_pool(sweep: Sweep, todo: int) -> WorkerPool:
    provenance = sweep.provenance
    return make_pool(sweep.folder, sweep.templates(), provenance["worker"], sweep.spec, todo, provenance)
