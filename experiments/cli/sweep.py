"""`lathe sweep`, and what `lathe run -m` and `lathe resume SWEEP` do."""

from __future__ import annotations

import argparse
import shutil
import sys
from typing import TYPE_CHECKING

from experiments.components.instantiate import instantiate
from experiments.core.console import make_console
from experiments.core.errors import InputError
from experiments.core.format import to_json
from experiments.launch.own_launcher import complete_executor, uses_scheduler
from experiments.results.manage.forecast import Forecast, describe_forecast, forecast_table, make_forecast
from experiments.sweep.create import SweepDraft, extend, prepare, write
from experiments.sweep.earlier.same_name import find_same, lock_names
from experiments.sweep.ledger import Ledger, LedgerState
from experiments.sweep.spec import SweepSpec, read, read_overrides
from experiments.sweep.status.progress import has_workers, warn_of_damage
from experiments.sweep.status.tables import show_live
from experiments.sweep.submit import WorkerRestarts, count_todo, make_pool, retry_unfinished, submit
from experiments.sweep.sweep import Sweep, format_reference
from experiments.tracking.mlflow_view import ui_hint
from experiments.trial.own_runs import check_own
from launchers.base import WORKER_MODULE, WORKER_OPTIONS, Executor, LaunchError, WorkerPool

if TYPE_CHECKING:
    from experiments.config.experiment import Experiment


def sweep(args: argparse.Namespace) -> int:
    """Run the trials of a sweep file.

    Raises:
        InputError: the sweep or one of its trials cannot run.
    """
    return start_sweep(read(args.sweep, args.overrides, args.config_dir, args.trust), args, is_new=args.new)


def start_sweep(
    spec: SweepSpec, args: argparse.Namespace, experiment: Experiment | None = None, *, is_new: bool
) -> int:
    """Freeze a sweep, start its workers, and show it until it ends. A sweep that exists already is continued.

    Args:
        spec: of the sweep.
        args: of the command.
        experiment: of the only trial; None: the overrides of `spec` are composed.
        is_new: start another sweep, also if there is the same one.
    """
    draft = prepare(spec, config_dirs=args.config_dir, trust=args.trust, experiment=experiment)
    if draft.templates.all[0].config["launcher"].get("dry_run"):
        return _show_dry_run(draft)
    return _show(start(draft, is_new=is_new), args)


def start(draft: SweepDraft, *, is_new: bool = False) -> Sweep:
    """Write a sweep to disk and start its workers, or let the same sweep go on.

    Args:
        draft: of the sweep.
        is_new: start another sweep, also if there is the same one.

    Raises:
        InputError: the folder cannot be written, or its name is that of a different sweep.
        LaunchError: this machine or the scheduler refuses the workers.
    """
    with lock_names(draft.runs_dir):
        if not is_new and (same := find_same(draft, draft.runs_dir)) is not None:
            check_own(same.folder, draft.runs_dir, trust_code=False)
            _go_on(same)
            return same
        sweep = write(draft)
        for note in [*draft.notes, *(f"warning: {warning}" for warning in sweep.provenance["warnings"])]:
            _say(note)
        try:
            _start_workers(sweep)
        except LaunchError:
            state = sweep.ledger().read()
            if not state.submissions and not state.is_submitting:
                shutil.rmtree(sweep.folder)  # the scheduler refused it, and nothing has run
            raise
    return sweep


def _go_on(sweep: Sweep) -> None:
    """Start workers for the trials of a sweep that have no result, unless its workers still run."""
    ledger, name = _reap(sweep), format_reference(sweep)
    states = {entry.state for entry in ledger.state.entries.values()}
    is_complete = states <= {"finished", "pruned"} and not count_todo(sweep.spec, ledger.state)
    if not is_complete and has_workers(sweep, ledger, sweep.executor()):
        _say(f"sweep {sweep.name} runs already; `lathe status {name}` shows it, `lathe cancel {name}` ends it")
        return
    _say(f"sweep {sweep.name} has the same settings and code, so this command continues it; --new starts another one")
    retry_unfinished(sweep)
    _start_workers(sweep)


def _reap(sweep: Sweep) -> Ledger:
    from experiments.sweep.worker.reaper import reap

    sweep.check()
    reap(sweep, ledger := sweep.ledger(), sweep.executor())
    warn_of_damage(ledger)
    return ledger


def resume_sweep(sweep: Sweep, args: argparse.Namespace) -> int:
    """Run the missing, failed and lost trials of a sweep, and the trials that the overrides add."""
    _reap(sweep)
    num_new = extend(sweep, args.overrides, args.trust, _say)
    sweep = Sweep(sweep.folder, sweep.trust)
    num_pending = retry_unfinished(sweep)
    if args.overrides:
        _say(f"{num_new} trials are new, {num_pending} are pending")
    _start_workers(sweep)
    return _show(sweep, args)


def _start_workers(sweep: Sweep) -> None:
    """Start workers for the trials that have not run, and the process that copies the sweep to MLflow."""
    from experiments.tracking import follow_sweep

    state = sweep.ledger().read()  # before the workers claim trials
    todo, num_trials = count_todo(sweep.spec, state), len(state.entries)
    if submit(sweep) is None:
        _say(f"sweep {sweep.name}: nothing is left to run ({num_trials} trials); `lathe status {sweep.name}`")
    else:
        trials = f"{todo} trials" if todo else "trials"
        _say(f"sweep {sweep.name} in {sweep.folder}: {trials}, job {sweep.ledger().read().submissions[-1]['job']}")
    follow_sweep.start_follower(sweep)


def _show(sweep: Sweep, args: argparse.Namespace) -> int:
    """Show a sweep until it ends, unless `--detach` is set."""
    if args.detach:
        _say(f"`lathe status {sweep.name}` shows it, `lathe cancel {sweep.name}` ends it")
        if not uses_scheduler(sweep.config):
            _say(f"if all of its workers are killed, nothing starts them again; `lathe resume {sweep.name}` does")
        return 0
    return show_attached(sweep)


def show_attached(sweep: Sweep) -> int:
    """Show a sweep until it ends, and start its workers again when all of them have been killed.

    A scheduler starts its workers again itself.

    Returns:
        The exit code, as `show_live`.
    """
    restart = (lambda num_ended: None) if uses_scheduler(sweep.config) else WorkerRestarts(lambda: _restart(sweep))
    return show_live(sweep, sweep.executor(), ui_hint, restart=restart)


def _restart(sweep: Sweep) -> None:
    from experiments.tracking import follow_sweep

    with lock_names(sweep.runs_dir):
        if has_workers(sweep, sweep.ledger(), sweep.executor()):  # another command that shows it was faster
            return
        submit(sweep)
        follow_sweep.start_follower(sweep)  # ends at once if there is one


def plan_sweep(args: argparse.Namespace) -> int:
    """Plan every trial of a sweep, and print what all of them will take.

    Raises:
        InputError: the sweep or one of its trials cannot run.
    """
    names = [word for word in args.overrides if "=" not in word and not word.startswith("~")]
    others = [word for word in args.overrides if word not in names]
    if len(names) > 1:
        raise InputError([f"{names[1]}: -m plans one sweep, and '{names[0]}' is the first; leave one of them out"])
    if args.cfg or args.shared:
        flag = "--cfg" if args.cfg else "--from"
        raise InputError([f"{flag} is for one run, but -m plans several; leave one of them out"])
    spec = (
        read(names[0], others, args.config_dir, args.trust)
        if names
        else read_overrides(others, args.config_dir, trust=args.trust)
    )
    draft = prepare(spec, config_dirs=args.config_dir, trust=args.trust)
    pool, executor, todo = _make_pool(draft)
    forecast = _forecast(draft, pool, executor, todo)
    if args.json:
        print(to_json(forecast))
        return 0
    make_console().print(forecast_table(forecast))
    for line in describe_forecast(forecast):
        print(line)
    if pool.slurm is not None:
        print(_cost(pool, executor, todo))
    return 0


def _make_pool(draft: SweepDraft) -> tuple[WorkerPool, Executor, int]:
    """The workers of a sweep that is not on disk, what starts them, and the number of trials to run."""
    config, values = draft.templates.all[0].config, draft.spec.values
    hardware = draft.experiment.config["hardware"]
    worker = {key: hardware[key] for key in ("nodes", "devices_per_node")}
    state = LedgerState()
    for trial in draft.trials:
        state.apply({"event": "trial", "time": 0.0, **trial})
    todo = count_todo(values, state)
    provenance = {"worker_module": WORKER_MODULE, "worker_options": WORKER_OPTIONS}
    folder = draft.runs_dir / str(values["name"])
    pool = make_pool(folder, draft.templates, worker, values, max(1, todo), provenance)
    launcher = instantiate(config["launcher"], "launcher", draft.templates.trust)
    return pool, complete_executor(launcher, config["launcher"]["_target_"]), todo


def _forecast(draft: SweepDraft, pool: WorkerPool, executor: Executor, todo: int) -> Forecast:
    per_worker = pool.trials_per_worker if uses_scheduler(draft.templates.all[0].config) else 1
    return make_forecast(draft, todo, max(1, min(todo, executor.count_workers(pool) * per_worker)))


def _show_dry_run(draft: SweepDraft) -> int:
    """Print the job that would be submitted, the number of trials, and the cost."""
    pool, executor, todo = _make_pool(draft)
    print(executor.describe(pool))
    print(f"\n{_cost(pool, executor, todo)}", file=sys.stderr)
    return 0


def _cost(pool: WorkerPool, executor: Executor, todo: int) -> str:
    from experiments.config.rules.slurm import max_device_h

    tasks = executor.count_workers(pool)
    size = f"{todo} trials, {tasks} tasks of {pool.nodes} nodes x {pool.devices_per_node} devices"
    if pool.slurm is None:
        return size
    hours = max_device_h(tasks, pool.nodes, pool.devices_per_node, pool.slurm["time"])
    return f"{size}, at most {hours:,.1f} device-hours (time limit {pool.slurm['time']})"


def _say(line: str) -> None:
    make_console().print(line, highlight=False, markup=False, soft_wrap=True)
