"""`lathe run` and `lathe resume`."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from experiments.cli.detached import detach
from experiments.cli.plan import check, choose_layout, compose, print_config, shared_file
from experiments.config.allowlist import trusted
from experiments.config.validate import check_config
from experiments.core.console import Display, make_console
from experiments.core.errors import InputError
from experiments.core.format import to_json
from experiments.launch.attempt_monitor import RunResult
from experiments.launch.own_launcher import uses_scheduler
from experiments.launch.run_here import check_here
from experiments.launch.run_trial import prestart
from experiments.launch.run_trial import run as run_trial
from experiments.results.manage.facts import read_facts
from experiments.results.manage.longer import make_child, trains_longer
from experiments.results.manage.show import make_overview
from experiments.run.metrics import REPEATABLE
from experiments.run.rank_reports import HAS_TRACEBACK
from experiments.sweep.earlier.finished_trials import FinishedTrials
from experiments.sweep.sweep import find_by_full_name
from experiments.trial.code_copy import digest_packages
from experiments.trial.debug_run import list_notes
from experiments.trial.initial_weights import FILE
from experiments.trial.own_runs import check_own
from experiments.trial.resume import compose_changes, find_changes, get_key
from experiments.trial.trial import (
    Trial,
    find_code_changes,
    find_latest,
    find_trial,
    freeze,
    resolve_runs_dir,
    trial_id,
)
from launchers.base import Launcher

if TYPE_CHECKING:
    from experiments.config.experiment import Experiment


def run(args: argparse.Namespace) -> int:
    """Train one experiment; with `-m`, or with the launcher of a cluster, start a sweep.

    Raises:
        InputError: the configuration is wrong or cannot run.
    """
    if args.here and args.detach:
        raise InputError(["--here trains in this terminal, but --detach leaves it; leave one of them out"])
    if args.multirun:
        if args.reuse:
            raise InputError(
                ["--reuse is for one run, and a sweep reuses finished trials anyway (sweep.reuse); leave it out"]
            )
        _refuse_for_sweep(args, "-m starts a sweep")
        return _multirun(args)
    shared = shared_file(args)
    # An untrusted file is checked completely before a process is started.
    launcher = None if args.cfg or shared or args.here or args.detach else prestart()
    try:
        experiment = compose(args)
        if args.cfg:
            return print_config(experiment, args.cfg)
        experiment = choose_layout(experiment, args)
        plan = check(experiment.config, args.trust)
        if uses_scheduler(experiment.config):
            _refuse_for_sweep(args, "the launcher submits a job; add launcher=local")
            return _run_on_cluster(experiment, args)
        if args.new:
            raise InputError(["--new is for sweeps, and `lathe run` makes a new run anyway; leave it out"])
        if args.here:
            check_here(experiment.config, plan)
        if args.reuse and (finished := _find_finished(experiment, args)) is not None:
            return _show_finished(finished, args)
        trial = find_latest(experiment) if experiment.config["resume"] else None
        if trial is not None:
            check_own(trial.folder, trial.runs_dir, trust_code=False)
            changes = find_changes(trial, experiment.config)
            return _resume_trial(trial, args, launcher, changes, _select(args.overrides, changes))
        trial = freeze(experiment)
        display = Display(sys.stderr if args.json else sys.stdout)
        display.say(f"run {trial.folder.name} of '{trial.config['name']}' in {trial.folder}")
        for warning in [*trial.provenance["warnings"], *(shared.warnings_for(trial) if shared else [])]:
            display.say(f"warning: {warning}")
        if args.detach:
            return detach(trial, args)
        return _report(run_trial(trial, trust=args.trust, display=display, launcher=launcher, here=args.here), args)
    finally:
        if launcher is not None:
            launcher.discard()


def _find_finished(experiment: Experiment, args: argparse.Namespace) -> Trial | None:
    """A finished run with the configuration, the code and the data of an experiment; else say why one does not count."""
    runs_dir, identity = resolve_runs_dir(experiment.config), trial_id(experiment.config)
    code_sha256 = digest_packages(trusted(args.trust), experiment.config_dirs, runs_dir)
    finished = FinishedTrials(runs_dir, code_sha256, [identity], experiment.config)
    if (trial := finished.runs.get(identity)) is None:
        for reason in finished.refused.values():
            print(f"a finished run of this trial is not reused: {reason}", file=sys.stderr)
    return trial


def _show_finished(trial: Trial, args: argparse.Namespace) -> int:
    facts = read_facts(trial)
    if args.json:
        print(to_json(facts))
        return 0
    print(f"run {trial.folder.name} has finished with the same configuration, code and data, so it is reused")
    make_console().print(make_overview(facts))
    return 0


def _multirun(args: argparse.Namespace) -> int:
    if args.shared:
        raise InputError([f"--from {args.shared} is one run, but -m starts several; leave one of them out"])
    from experiments.cli.sweep import start_sweep
    from experiments.sweep.spec import read_overrides

    return start_sweep(read_overrides(args.overrides, args.config_dir, trust=args.trust), args, is_new=args.new)


def _refuse_for_sweep(args: argparse.Namespace, reason: str) -> None:
    if args.here:
        raise InputError([f"--here trains in the process of this command, but {reason}; leave out --here"])
    if args.json:
        raise InputError([f"--json prints one run, but {reason}; `lathe status SWEEP --json` prints a sweep"])


def _run_on_cluster(experiment: Experiment, args: argparse.Namespace) -> int:
    """Submit a single run to a scheduler, as a sweep of one trial."""
    from experiments.cli.sweep import start_sweep
    from experiments.sweep.spec import read_overrides

    overrides = [override for override in experiment.overrides if get_key(override) != "resume"]
    overrides.append(f"sweep.reuse={str(args.reuse).lower()}")
    spec = read_overrides(overrides, args.config_dir, experiment.config["name"])
    return start_sweep(
        spec, args, experiment if experiment.source else None, is_new=args.new or not experiment.config["resume"]
    )


def resume(args: argparse.Namespace) -> int:
    """Continue a run from its last checkpoint, or run the missing, failed and lost trials of a sweep.

    Raises:
        InputError: there is no such run or sweep, or it cannot continue.
    """
    from experiments.cli.sweep import resume_sweep

    if args.here and args.detach:
        raise InputError(["--here trains in this terminal, but --detach leaves it; leave one of them out"])
    sweep = find_by_full_name(args.run, Path(args.runs_dir), trusted(args.trust))
    if sweep is not None:
        check_own(sweep.folder, Path(args.runs_dir), trust_code=args.trust_code)
        _refuse_for_sweep(args, f"'{args.run}' is a sweep")
        return resume_sweep(sweep, args)
    trial = find_trial(args.run, Path(args.runs_dir))
    check_own(trial.folder, Path(args.runs_dir), trust_code=args.trust_code)
    if trains_longer(args.overrides):
        return _train_longer(trial, args)
    if (trial.folder.parent / "sweep.yaml").is_file():
        name = trial.folder.parent.name
        raise InputError(
            [f"run '{args.run}' is a trial of the sweep '{name}'; resume the sweep: `lathe resume {name}`"]
        )
    return _resume_trial(trial, args, None, compose_changes(trial, args.overrides, args.trust), args.overrides)


def _train_longer(parent: Trial, args: argparse.Namespace) -> int:
    """Train a child run that continues a run."""
    trial = make_child(parent, args.overrides, args.trust)
    continues, display = trial.provenance["continues"], Display(sys.stderr if args.json else sys.stdout)
    display.say(f"run {trial.folder.name} continues run {parent.folder.name} from step {continues['step']}")
    for line in continues["differs"]:
        display.say(f"warning: it differs from a run of this length from the start: {line}")
    return _resume_trial(trial, args, None)


def _select(overrides: Sequence[str], keys: Collection[str]) -> list[str]:
    """The overrides that set one of these keys of the root, or a part of it."""
    return [override for override in overrides if get_key(override).partition(".")[0] in keys]


def _resume_trial(
    trial: Trial, args: argparse.Namespace, launcher: Launcher | None, changed: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> int:  # fmt: skip
    """Continue a run.

    Args:
        trial: the run.
        args: of the command.
        launcher: from `prestart`.
        changed: values that differ from the trial in the next attempt.
        overrides: what makes these changes.
    """
    trust: list[str] = args.trust
    outcome = trial.outcome()
    if outcome is not None and outcome["status"] == "finished":
        if args.json:
            print(to_json(read_facts(trial)))
        else:
            print(f"run {trial.folder.name} is finished; nothing is left to do ({trial.folder})")
        return 0
    display = Display(sys.stderr if args.json else sys.stdout)
    display.say(f"run {trial.folder.name} of '{trial.config['name']}' in {trial.folder}")
    initial_weights = trial.folder / FILE
    config = {**trial.config, **(changed or {})}
    check_config(config, trusted(trust), f"run '{trial.folder.name}'")
    check(config, trust, {"": initial_weights} if initial_weights.exists() else None)
    for change in find_code_changes(trial, trust):
        display.say(f"warning: {change}")
    if args.detach:
        return detach(trial, args, overrides)
    return _report(
        run_trial(trial, trust=trust, display=display, launcher=launcher, changes=changed, here=args.here), args
    )


def _report(result: RunResult, args: argparse.Namespace) -> int:
    """Print how a run ended, and delete the folder of a run that never began."""
    if result.exit_code == 2:
        print(result.reason, file=sys.stderr)
        if args.json:
            print(to_json({"error": "InputError", "problems": [result.reason]}))
        if result.attempt == 1 and not result.metrics and HAS_TRACEBACK not in str(result.reason):
            shutil.rmtree(result.trial.folder)
        return 2
    if result.status != "finished":
        print(f"{result.status}: {result.reason}", file=sys.stderr)
    if args.json:
        print(to_json(read_facts(result.trial)))
    else:
        make_console().print(_result_table(result))
    return result.exit_code


def _result_table(result: RunResult) -> Table:
    """The last metrics, and where the results are."""
    trial = result.trial
    remark = "; its metrics are no result" if list_notes(trial.config) else ""
    title = escape(f"{trial.config['name']}: {result.status}{remark}")
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in sorted(result.metrics.items()):
        if name.startswith(REPEATABLE):
            table.add_row(escape(name), f"{value:.6g}")
    table.add_section()
    folder = trial.folder
    table.add_row("run", folder.name)
    table.add_row("folder", escape(str(folder)))
    checkpoints = sorted((folder / "checkpoints").glob("step_*"))
    if checkpoints:
        table.add_row("checkpoint", f"checkpoints/{checkpoints[-1].name}")
    table.add_row("log", f"attempts/{result.attempt}/log.txt")
    if result.warnings:
        table.add_row("warnings", escape("\n".join(result.warnings)))
    if result.mlflow.get("run_id"):
        table.add_row("MLflow run", str(result.mlflow["run_id"]))
        if result.mlflow.get("model"):
            table.add_row("MLflow model", str(result.mlflow["model"]))
        table.add_row("compare", escape(f"lathe ui --runs-dir {shlex.quote(str(trial.runs_dir))}"))
    for tracker, page in result.mlflow.get("pages", {}).items():
        table.add_row(escape(tracker), escape(str(page)))
    if result.status != "finished":
        trust = "".join(f" --trust {name}" for name in trial.provenance["trust"])
        heading = "fix, then resume" if result.status == "failed" else "resume"
        table.add_row(heading, escape(f"lathe resume {trial.reference}{trust}"))
    return table
