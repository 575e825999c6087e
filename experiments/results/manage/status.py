"""`lathe status` of a run, a sweep, or all sweeps."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import TextIO

from experiments.core.console import make_console
from experiments.core.errors import InputError
from experiments.core.format import format_duration, format_number, to_json
from experiments.results.manage.facts import RunFacts, read_facts
from experiments.results.manage.find import find_run_or_sweep
from experiments.results.manage.show import make_overview
from experiments.sweep.status.tables import show, show_all
from experiments.sweep.sweep import Sweep
from experiments.tracking.mlflow_view import ui_hint
from experiments.trial.trial import Trial

POLL_S = 1.0


def status(args: Namespace) -> int:
    """Show the progress of a run or a sweep; without a name, of all sweeps.

    Raises:
        InputError: there is no such run or sweep.
    """
    runs_dir = Path(args.runs_dir)
    if args.target is None:
        return show_all(runs_dir, as_document=args.json)
    target = find_run_or_sweep(args.target, runs_dir)
    if isinstance(target, Sweep):
        return show(target, args, ui_hint)
    if flags := [flag for flag in ("all", "failed") if getattr(args, flag)]:
        raise InputError([f"--{flags[0]} selects trials of a sweep, but '{args.target}' is a run; leave it out"])
    facts = _watch(target, sys.stderr if args.json else sys.stdout) if args.watch else read_facts(target)
    if args.json:
        print(to_json(facts))
    else:
        make_console().print(make_overview(facts))
    return 0


def _watch(trial: Trial, stream: TextIO) -> RunFacts:
    """Print a line whenever there is something new, until the run has ended or the user presses Ctrl-C."""
    shown = ""
    while True:
        facts = read_facts(trial)
        if (line := _describe(facts)) != shown:
            make_console(stream).print(line, highlight=False, markup=False, soft_wrap=True)
            shown = line
        if facts.state not in ("new", "pending", "running"):
            return facts
        try:
            time.sleep(POLL_S)
        except KeyboardInterrupt:
            return facts


def _describe(facts: RunFacts) -> str:
    of = f"/{facts.num_steps:,}" if facts.num_steps is not None else ""
    left = f", about {format_duration(facts.left_s)} left" if facts.left_s is not None else ""
    best = facts.metrics.get(str(facts.best_metric))
    metric = f"  {facts.best_metric} {format_number(best['last'])}" if best else ""
    return f"run {facts.id}: {facts.state}, step {facts.step:,}{of}{left}{metric}"
