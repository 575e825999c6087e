"""`lathe sync` and `lathe ui`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.config.allowlist import trusted
from experiments.core.errors import InputError
from experiments.sweep.sweep import find_by_full_name, find_sweep
from experiments.trial.lookup import check_runs_dir
from experiments.trial.trial import find_trial


def sync(args: argparse.Namespace) -> int:
    """Copy runs to their trackers.

    Raises:
        InputError: there is no such run.
    """
    from experiments.tracking.sweep_sync import sync_all

    runs_dir = Path(args.runs_dir)
    if not args.runs:
        check_runs_dir(runs_dir)
    for name in args.runs:
        if find_by_full_name(name, runs_dir) is None:
            find_trial(name, runs_dir)
    summary = sync_all(runs_dir, args.runs, trusted(args.trust), trust_code=args.trust_code)
    runs = "1 run is" if summary.runs == 1 else f"{summary.runs} runs are"
    print(f"{runs} in the store, {summary.points} {'point was' if summary.points == 1 else 'points were'} new")
    for warning in summary.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for failure in summary.failures:
        print(failure, file=sys.stderr)
    return 1 if summary.failures else 0


def ui(args: argparse.Namespace) -> int:
    """Serve the MLflow UI until Ctrl-C.

    Raises:
        InputError: the port or the sweep is wrong.
    """
    from experiments.tracking.ui import serve

    if args.port is not None and not 0 < args.port < 1 << 16:
        raise InputError([f"--port {args.port} is not a port; choose one from 1 to 65535, or leave it out"])

    def say(line: str) -> None:
        print(line, flush=True)

    if args.sweep is None:
        return serve(Path(args.runs_dir), args.store, args.experiment, args.port, say)
    from experiments.tracking.sweep_sync import read_tracking_config

    sweep = find_sweep(args.sweep, Path(args.runs_dir))
    tracking = read_tracking_config(sweep)
    store, source = (args.store, "--store ") if args.store else (tracking["store"], "tracking.store=")
    return serve(sweep.runs_dir, store, tracking["experiment"], args.port, say, sweep=sweep, named=source)
