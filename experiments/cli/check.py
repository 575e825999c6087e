"""`lathe check`: plans every experiment and every sweep of your folders, so that no change breaks one of them unseen."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from experiments.cli.plan import check
from experiments.config import options
from experiments.config.allowlist import trusted
from experiments.config.rules.topology import is_auto
from experiments.core.errors import InputError
from experiments.core.format import to_json
from experiments.sweep.create import prepare
from experiments.sweep.spec import read
from experiments.sweep.sweep_files import BUILT_IN, list_sweep_files

if TYPE_CHECKING:
    from experiments.config.experiment import Experiment

STATES = ("ok", "no data", "failed")
MISSING_FILES = "`lathe data` names their source"
"""Part of the problem of a data set whose files are not on this machine."""


def check_all(args: argparse.Namespace) -> int:
    """Plan all experiments and sweeps, and print the problems of each; returns 1 if one of them cannot run.

    With `--json`, one document: ``counts`` by state, and ``checks`` with ``name``, ``state`` and ``problems`` of each.

    Files of data that are missing are no problem: a machine for tests rarely has them.

    Raises:
        InputError: a folder does not exist, or has neither experiments nor sweeps.
    """
    checks = dict(_list_checks(args))
    if not checks:
        folders = ", ".join(args.config_dir)
        raise InputError([f"--config-dir {folders} has neither `experiment/*.yaml` nor `sweeps/*.yaml`; add one"])
    results: list[dict[str, Any]] = []
    for name, run_check in checks.items():
        problems = _find_problems(run_check)
        is_missing = bool(problems) and all(MISSING_FILES in problem for problem in problems)
        state = "no data" if is_missing else "failed" if problems else "ok"
        results.append({"name": name, "state": state, "problems": problems})
        if not args.json:
            print(f"{state:<8}{name}", flush=True)
            for problem in problems if state == "failed" else ():
                print(f"  - {problem}")
    counts = Counter(result["state"] for result in results)
    if args.json:
        print(to_json({"counts": {state: counts[state] for state in STATES}, "checks": results}))
    else:
        print(", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]))
    return 1 if counts["failed"] else 0


def _list_checks(args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], object]]]:
    """What to check, by its name: that of your folders; without any, that of Lathe."""
    dirs = options.user_folders(args.config_dir)
    for name, path in options.groups(dirs).get("experiment", {}).items():
        if path.is_relative_to(options.CONF_DIR) != bool(dirs):
            yield f"experiment={name}", partial(_check_experiment, args, name)
    for name, path in list_sweep_files(dirs).items():
        if path.is_relative_to(BUILT_IN) != bool(dirs):
            yield f"sweep {name}", partial(_check_sweep, args, str(path))


def _find_problems(run_check: Callable[[], object]) -> list[str]:
    try:
        run_check()
    except InputError as err:
        return list(err.problems)
    return []


def _check_experiment(args: argparse.Namespace, name: str) -> None:
    """Do what `lathe plan` does, except for the memory of this machine."""
    from experiments.config.compose import compose
    from experiments.plan.estimate import estimate

    def compose_with(overrides: Sequence[str]) -> Experiment:
        return compose(overrides, config_dirs=args.config_dir, trust=args.trust)

    experiment = compose_with([f"experiment={name}", *args.overrides])
    if is_auto(experiment.config):
        from experiments.plan.layout_search import search

        experiment = search(experiment, compose_with)
    estimate(experiment.config, check(experiment.config, args.trust), trusted(args.trust))


def _check_sweep(args: argparse.Namespace, path: str) -> None:
    prepare(read(path, args.overrides, args.config_dir, args.trust), config_dirs=args.config_dir, trust=args.trust)
