"""What each command does, one function a command."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from experiments.cli.tables import closing_table, data_table, options_table
from experiments.config import options
from experiments.config.allowlist import trusted
from experiments.config.rules.topology import is_open
from experiments.core.console import Display, console
from experiments.core.errors import InputError
from experiments.launch.run_trial import RunResult, prestart, run, runs_elsewhere
from experiments.plan.plan import Plan, make_plan
from experiments.plan.tables import layouts_table, plan_tables
from experiments.sweep.sweep import find_sweep, named
from experiments.tracking.store_uri import StoreError
from experiments.trial.initial_weights import FILE, find_weights, weights_of
from experiments.trial.resume import changes
from experiments.trial.trial import Trial, code_changes, find, freeze, latest, runs_dir_of
from launchers.base import Launcher, LaunchError

if TYPE_CHECKING:
    from experiments.config.experiment import Experiment
    from experiments.results.share.shared_file import SharedFile


def call(asked: argparse.Namespace) -> int:
    """Do what was asked.

    Raises:
        InputError: it cannot be done as it was asked.
    """
    command: Callable[[argparse.Namespace], int] = COMMANDS[asked.command]
    try:
        return command(asked)
    except (LaunchError, StoreError) as err:
        print(f"{type(err).__name__}: {err}", file=sys.stderr)
        return 1


def _run(asked: argparse.Namespace) -> int:
    if asked.multirun:
        return _multirun(asked)
    shared = _shared(asked)
    # Of a stranger's file all is checked before a process is started.
    launcher = None if asked.cfg or shared else prestart()
    try:
        experiment = _compose(asked)
        if asked.cfg:
            return _print_config(experiment)
        experiment = _laid_out(experiment, asked)
        _check(experiment.config, asked.trust)
        if runs_elsewhere(experiment.config):
            return _run_elsewhere(experiment, asked)
        if asked.detach:
            raise InputError(["--detach is for sweeps and schedulers; leave it out, or end the line with `&`"])
        trial = latest(experiment) if experiment.config["resume"] else None
        if trial is not None:
            return _go_on(trial, asked.trust, launcher)
        trial = freeze(experiment)
        display = Display(sys.stdout)
        display.say(f"run {trial.folder.name} of '{trial.config['name']}' in {trial.folder}")
        for warning in [*trial.provenance["warnings"], *(shared.warnings_for(trial) if shared else [])]:
            display.say(f"warning: {warning}")
        return _close(run(trial, trust=asked.trust, display=display, launcher=launcher))
    finally:
        if launcher is not None:
            launcher.discard()


def _multirun(asked: argparse.Namespace) -> int:
    if asked.shared:
        raise InputError([f"--from {asked.shared} is one run, and -m asks for several; leave one of them out"])
    from experiments.cli.sweep_commands import ask
    from experiments.sweep.spec import from_overrides

    return ask(from_overrides(asked.overrides, asked.config_dir), asked)


def _run_elsewhere(experiment: Experiment, asked: argparse.Namespace) -> int:
    """A single run that a scheduler is given is a sweep of one trial."""
    from experiments.cli.sweep_commands import ask
    from experiments.sweep.spec import from_overrides

    checkpoint = experiment.config["checkpoint"]
    metric, mode = checkpoint["best_metric"] or "val/loss_nats", checkpoint["best_mode"]
    told = [f"sweep.metric={metric}", f"sweep.mode={mode if checkpoint['best_metric'] else 'min'}"]
    question = from_overrides([*experiment.overrides, *told], asked.config_dir, experiment.config["name"])
    return ask(question, asked, experiment if experiment.source else None)


def _sweep(asked: argparse.Namespace) -> int:
    from experiments.cli.sweep_commands import ask
    from experiments.sweep.spec import read

    return ask(read(asked.sweep, asked.overrides, asked.config_dir), asked)


def _check(config: dict[str, Any], trust: list[str], kept: Path | None = None) -> Plan:
    """Tell what cannot run before a process is started for it.

    Args:
        config: of a trial.
        trust: packages that may be named.
        kept: the weights that it begins with, where its run folder has them already.

    Raises:
        PlanError: with every problem.
    """
    plan, initial = make_plan(config), kept
    if initial is None and (weights := weights_of(config)) is not None:
        initial = find_weights(weights, lambda run: find(run, runs_dir_of(config)).folder)
    if plan.topology.pipe > 1 or plan.topology.model > 1 or initial or config.get("freeze"):
        # Brings torch, whose second is well spent where several ranks would find out the same.
        from experiments.plan.fit import check_fit

        check_fit(config, plan, trusted(trust), initial)
    return plan


def _resume(asked: argparse.Namespace) -> int:
    from experiments.cli.sweep_commands import go_on

    sweep = named(asked.run, Path(asked.runs_dir))
    if sweep is not None:
        return go_on(sweep, asked)
    trial = find(asked.run, Path(asked.runs_dir))
    if (trial.folder.parent / "sweep.yaml").is_file():
        name = trial.folder.parent.name
        raise InputError(
            [f"run '{asked.run}' is a trial of the sweep '{name}', which keeps its ledger; `lathe resume {name}`"]
        )
    return _go_on(trial, asked.trust, None, changes(trial, asked.overrides, asked.trust))


def _go_on(trial: Trial, trust: list[str], launcher: Launcher | None, changed: Mapping[str, Any] | None = None) -> int:
    outcome = trial.outcome()
    if outcome is not None and outcome["status"] == "finished":
        print(f"run {trial.folder.name} is finished; nothing is left to do ({trial.folder})")
        return 0
    display = Display(sys.stdout)
    display.say(f"run {trial.folder.name} of '{trial.config['name']}' in {trial.folder}")
    kept = trial.folder / FILE
    _check({**trial.config, **(changed or {})}, trust, kept if kept.exists() else None)
    for change in code_changes(trial, trust):
        display.say(f"warning: {change}")
    return _close(run(trial, trust=trust, display=display, launcher=launcher, changes=changed))


def _close(result: RunResult) -> int:
    """Say how it ended; a run that never began leaves nothing behind."""
    if result.exit_code == 2:
        print(result.reason, file=sys.stderr)
        if result.attempt == 1 and not result.metrics:
            shutil.rmtree(result.trial.folder)
        return 2
    if result.status != "finished":
        print(f"{result.status}: {result.reason}", file=sys.stderr)
    console().print(closing_table(result))
    return result.exit_code


def _plan(asked: argparse.Namespace) -> int:
    experiment = _compose(asked)
    if asked.cfg:
        return _print_config(experiment)
    experiment = _laid_out(experiment, asked)
    plan = _check(experiment.config, asked.trust)
    from experiments.plan.estimate import check_memory, estimate, seconds_per_step

    counted = estimate(experiment.config, plan, trusted(asked.trust))
    hardware = experiment.config["hardware"]
    check_memory(counted, plan, hardware)
    for table in plan_tables(plan, counted, seconds_per_step(counted, hardware)):
        console().print(table)
    return 0


def _laid_out(experiment: Experiment, asked: argparse.Namespace) -> Experiment:
    """The experiment with the best layout in place of `parallel=auto`, which the person is shown; any other as it is.

    Raises:
        PlanError: no layout will do.
    """
    if not is_open(experiment.config):
        return experiment
    from experiments.plan.layout_search import search

    return search(
        experiment,
        lambda overrides: _compose(asked, overrides),
        show=lambda choice: console().print(layouts_table(choice)),
    )


def _compose(asked: argparse.Namespace, overrides: Sequence[str] | None = None) -> Experiment:
    """What the words of a command ask for: of the defaults, or of a shared file."""
    shared, words = _shared(asked), asked.overrides if overrides is None else overrides
    if shared is not None:
        return shared.experiment(words, config_dirs=asked.config_dir, trust=asked.trust)
    from experiments.config.compose import compose

    return compose(words, config_dirs=asked.config_dir, trust=asked.trust)


def _shared(asked: argparse.Namespace) -> SharedFile | None:
    """The shared file that was named, if one was."""
    return None if asked.shared is None else _read_shared(asked.shared)


@lru_cache(maxsize=1)  # what is run must be what was checked, and an archive may be large
def _read_shared(name: str) -> SharedFile:
    from experiments.results.share.shared_file import read

    return read(Path(name).expanduser())


def _print_config(experiment: Experiment) -> int:
    print(yaml.safe_dump(experiment.config, sort_keys=False, allow_unicode=True), end="")
    return 0


def _status(asked: argparse.Namespace) -> int:
    from experiments.sweep.status.tables import show
    from experiments.tracking.mlflow_view import ui_hint

    return show(asked, ui_hint)


def _logs(asked: argparse.Namespace) -> int:
    from experiments.sweep.status.logs import logs

    return logs(asked)


def _cancel(asked: argparse.Namespace) -> int:
    from experiments.sweep.status.selection import cancel

    sweep = find_sweep(asked.sweep, Path(asked.runs_dir))
    cancel(sweep, sweep.executor(), asked.trials, say=lambda line: print(line, flush=True))
    return 0


def _sync(asked: argparse.Namespace) -> int:
    from experiments.tracking.sweep_sync import sync_all

    runs_dir = Path(asked.runs_dir)
    for name in asked.runs:
        if named(name, runs_dir) is None:
            find(name, runs_dir)
    summary = sync_all(runs_dir, asked.runs)
    print(f"{summary.runs} runs are in the store, {summary.points} points were new")
    for warning in summary.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for failure in summary.failures:
        print(failure, file=sys.stderr)
    return 1 if summary.failures else 0


def _ui(asked: argparse.Namespace) -> int:
    from experiments.tracking.ui import serve

    if asked.port is not None and not 0 < asked.port < 1 << 16:
        raise InputError([f"--port {asked.port} is no port; choose one from 1 to 65535, or leave it out"])

    def say(line: str) -> None:
        print(line, flush=True)

    if asked.sweep is None:
        return serve(Path(asked.runs_dir), asked.store, asked.experiment, asked.port, say)
    from experiments.tracking.sweep_sync import tracking_of

    sweep = find_sweep(asked.sweep, Path(asked.runs_dir))
    tracking = tracking_of(sweep)
    store, named = (asked.store, "--store ") if asked.store else (tracking["store"], "tracking.store=")
    return serve(sweep.runs_dir, store, tracking["experiment"], asked.port, say, sweep=sweep, named=named)


def _ls(asked: argparse.Namespace) -> int:
    from experiments.results.search.search import ls

    return ls(asked)


def _diff(asked: argparse.Namespace) -> int:
    from experiments.results.compare.diff import diff

    return diff(asked)


def _reproduce(asked: argparse.Namespace) -> int:
    from experiments.results.reproduce.reproduce import reproduce

    return reproduce(asked)


def _share(asked: argparse.Namespace) -> int:
    from experiments.results.share.share import share

    return share(asked)


def _export(asked: argparse.Namespace) -> int:
    from experiments.results.export.export import export

    return export(asked)


def _predict(asked: argparse.Namespace) -> int:
    from experiments.results.predict.predict import predict

    return predict(asked)


def _report(asked: argparse.Namespace) -> int:
    from experiments.results.report.report import report

    return report(asked)


def _zoo(asked: argparse.Namespace) -> int:
    from experiments.results.zoo.zoo import zoo

    return zoo(asked)


def _simulate(asked: argparse.Namespace) -> int:
    from experiments.plan.simulate.command import command

    return command(asked)


def _options(asked: argparse.Namespace) -> int:
    known = options.groups(options.user_folders(asked.config_dir))
    if asked.group == "sweeps":
        from experiments.sweep.spec import sweep_files

        known = {"sweeps": sweep_files(asked.config_dir)}
    console().print(options_table(asked.group, known))
    return 0


def _data(asked: argparse.Namespace) -> int:
    console().print(data_table(options.groups(options.user_folders(asked.config_dir))["data"]))
    return 0


def _rehearse(asked: argparse.Namespace) -> int:
    from experiments.cli.local_cluster import rehearse

    return rehearse(asked)


def _completion(asked: argparse.Namespace) -> int:
    from experiments.cli.completion import script

    print(script(asked.shell))
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "plan": _plan,
    "resume": _resume,
    "sweep": _sweep,
    "status": _status,
    "logs": _logs,
    "cancel": _cancel,
    "sync": _sync,
    "ui": _ui,
    "ls": _ls,
    "diff": _diff,
    "reproduce": _reproduce,
    "share": _share,
    "export": _export,
    "predict": _predict,
    "report": _report,
    "zoo": _zoo,
    "simulate": _simulate,
    "options": _options,
    "data": _data,
    "rehearse": _rehearse,
    "completion": _completion,
}
