"""`lathe plan`, and the steps that it shares with `lathe run`: compose, search a parallel layout, check."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from experiments.components.instantiate import check_trackers
from experiments.config.allowlist import trusted
from experiments.config.composition.root import FILE
from experiments.config.options import content
from experiments.config.rules.engine import read_engine
from experiments.config.rules.task import EVALUATION_ONLY
from experiments.config.rules.topology import is_auto
from experiments.config.source_map import shown_path
from experiments.core.console import make_console
from experiments.core.errors import PlanError
from experiments.core.files.paths import user_path
from experiments.core.format import to_json
from experiments.plan.plan import Plan, make_plan
from experiments.plan.tables import describe_plan, layouts_table, machine_table, plan_tables
from experiments.results.manage.find import find_named_run
from experiments.trial.debug_run import list_notes
from experiments.trial.initial_weights import find_all_weights, get_initial_weights
from experiments.trial.resume import recompose
from experiments.trial.trial import find_trial, resolve_runs_dir

if TYPE_CHECKING:
    from experiments.config.experiment import Experiment
    from experiments.results.share.shared_file import SharedFile


def plan(args: argparse.Namespace) -> int:
    """Print what a run needs: devices, memory, time; with `-m`, what a whole sweep does.

    Raises:
        InputError: the configuration is wrong or cannot run.
    """
    if args.multirun:
        from experiments.cli.sweep import plan_sweep

        return plan_sweep(args)
    experiment = compose(args)
    if args.cfg:
        return print_config(experiment, args.cfg)
    experiment = choose_layout(experiment, args)
    plan = check(experiment.config, args.trust)
    from experiments.plan.estimate import check_memory, estimate, seconds_per_step

    resources = estimate(experiment.config, plan, trusted(args.trust))
    hardware = experiment.config["hardware"]
    check_memory(resources, plan, hardware)
    step_s = seconds_per_step(resources, hardware)
    notes = [*list_notes(experiment.config), *_notes_of_defaults(experiment)]
    if args.json:
        print(to_json({**describe_plan(plan, resources, step_s), "notes": notes, "config": experiment.config}))
        return 0
    for table in plan_tables(plan, resources, step_s):
        make_console().print(table)
    if (machine := machine_table(experiment.config)) is not None:
        make_console().print(machine)
    for note in notes:
        print(f"note: {note}")
    return 0


def _notes_of_defaults(experiment: Experiment) -> Iterator[str]:
    """A note for each `config.yaml` that changes the defaults, as the command line does not show it."""
    for folder in experiment.config_dirs:
        if (path := Path(folder, FILE)).is_file() and any(content(path).values()):
            yield f"{shown_path(path)} sets defaults; `--cfg origins` shows where each value is written"


def compose(args: argparse.Namespace, overrides: Sequence[str] | None = None) -> Experiment:
    """Compose the experiment of a command line, from the defaults, a shared file or another run.

    Args:
        args: of the command.
        overrides: used instead of those in `args`.
    """
    shared = shared_file(args)
    overrides = args.overrides if overrides is None else overrides
    if shared is not None:
        return shared.experiment(overrides, config_dirs=args.config_dir, trust=args.trust)
    if args.shared is not None and (trial := find_named_run(args.shared)) is not None:
        return recompose(trial, overrides, config_dirs=args.config_dir, trust=args.trust)
    from experiments.config.compose import compose

    return compose(overrides, config_dirs=args.config_dir, trust=args.trust)


def shared_file(args: argparse.Namespace) -> SharedFile | None:
    """The shared file that `--from` names. It is read once a command, so the file that runs is the one that was checked."""
    if args.shared is None or find_named_run(args.shared) is not None:
        return None
    if not hasattr(args, "shared_file"):
        from experiments.results.share.shared_file import read

        args.shared_file = read(user_path(args.shared, "--from"))
    shared: SharedFile = args.shared_file
    return shared


def print_config(experiment: Experiment, form: str) -> int:
    """Print a configuration as YAML, or a line for each value with its origin."""
    if form == "origins":
        print("\n".join(experiment.list_origins()))
        return 0
    print(yaml.safe_dump(experiment.config, sort_keys=False, allow_unicode=True), end="")
    return 0


def choose_layout(experiment: Experiment, args: argparse.Namespace) -> Experiment:
    """Replace `parallel=auto` by the best layout, and print the comparison; return other experiments unchanged.

    Raises:
        PlanError: no layout fits.
    """
    if not is_auto(experiment.config):
        return experiment
    from experiments.plan.layout_search import search

    return search(
        experiment,
        lambda overrides: compose(args, overrides),
        show=lambda result: None if args.json else make_console().print(layouts_table(result)),
    )


def check(config: dict[str, Any], trust: list[str], initial_weights: dict[str, Path] | None = None) -> Plan:
    """Report what cannot run before a process is started for it.

    Args:
        config: of a trial.
        trust: packages that `_target_` may name.
        initial_weights: files with the weights that training begins with, by the part of the model, where the run folder
            already has them.

    Raises:
        PlanError: with every problem.
    """
    plan = make_plan(config)
    check_trackers(config, trusted(trust))
    if initial_weights is None:
        named = get_initial_weights(config)
        if not named and (config.get("task") or {}).get("_target_") == EVALUATION_ONLY:
            raise PlanError(
                [f"task={EVALUATION_ONLY} would evaluate random weights; set init_from.weights to trained ones"],
                f"the plan for '{config['name']}'",
            )
        initial_weights = find_all_weights(named, lambda run: find_trial(run, resolve_runs_dir(config)).folder)
    is_split = plan.topology.pipe > 1 or plan.topology.model > 1 or plan.num_servers > 1
    if is_split or read_engine(config).get("stage") or initial_weights or config.get("freeze"):
        # This imports torch, which takes a second; otherwise every rank would find the same problem later.
        from experiments.plan.fit import check_fit

        check_fit(config, plan, trusted(trust), initial_weights)
    return plan
