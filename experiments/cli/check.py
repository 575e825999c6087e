"""`lathe check`: plans every experiment and every sweep of your folders, so that no change breaks one of them unseen."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

from experiments.cli.plan import check
from experiments.config import options
from experiments.config.allowlist import trusted
from experiments.config.rules.topology import is_auto
from experiments.core.errors import InputError
from experiments.sweep.create import prepare
from experiments.sweep.spec import read
from experiments.sweep.sweep_files import BUILT_IN, list_sweep_files

MISSING_FILES = "`lathe data` names their source"
"""Part of the problem of a data set whose files are not on this machine."""


def check_all(args: argparse.Namespace) -> int:
    """Plan all experiments and sweeps, and print the problems of each; returns 1 if one of them cannot run.

    Files of data that are missing are no problem: a machine for tests rarely has them.

    Raises:
        InputError: a folder does not exist, or has neither experiments nor sweeps.
    """
    checks = dict(_list_checks(args))
    if not checks:
        folders = ", ".join(args.config_dir)
        raise InputError([f"--config-dir {folders} has neither `experiment/*.yaml` nor `sweeps/*.yaml`; add one"])
    counts = dict.fromkeys(("ok", "no data", "failed"), 0)
    for name, run_check in checks.items():
        problems = _find_problems(run_check)
        is_missing = bool(problems) and all(MISSING_FILES in problem for problem in problems)
        state = "no data" if is_missing else "failed" if problems else "ok"
        counts[state] += 1
        print(f"{state:<8}{name}", flush=True)
        for problem in problems if state == "failed" else ():
            print(f"  - {problem}")
    print(", ".join(f"{count} {state}" for state, count in counts.items() if count))
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

    words = [f"experiment={name}", *args.overrides]
    config = compose(words, config_dirs=args.config_dir, trust=args.trust).config
    if not is_auto(config):
        estimate(config, check(config, args.trust), trusted(args.trust))


def _check_sweep(args: argparse.Namespace, path: str) -> None:
    prepare(read(path, args.overrides, args.config_dir, args.trust), config_dirs=args.config_dir, trust=args.trust)
