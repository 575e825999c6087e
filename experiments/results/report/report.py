"""Writes what came out of a sweep, or of some runs, as a page, figures and a table: `lathe report`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from experiments.core.atomic import write_text
from experiments.core.errors import InputError, did_you_mean
from experiments.core.figures import Picture, alone
from experiments.results.report import (
    cost,
    importance,
    learning_curves,
    parallel_coordinates,
    parameter_plots,
    staleness,
)
from experiments.results.report.findings import Findings
from experiments.results.report.from_runs import collect_from_runs
from experiments.results.report.from_sweep import collect_from_sweep
from experiments.results.report.page import render_page
from experiments.results.report.tables import format_markdown
from experiments.sweep.sweep import Sweep, find_sweep, named, reference
from experiments.tracking import mlflow_view
from experiments.tracking.sweep_sync import PAGE, REPORT, SweepSync, SyncSummary, read_tracking_config
from experiments.trial.trial import Trial, find


def report(asked: argparse.Namespace) -> int:
    """Write the report that was asked for, and say where it is."""
    found = select_runs(asked.runs, Path(asked.runs_dir))
    sweep = found if isinstance(found, Sweep) else None
    findings = collect_from_sweep(found) if isinstance(found, Sweep) else collect_from_runs(found)
    folder = Path(asked.output).expanduser() if asked.output else (sweep.folder if sweep else Path()) / REPORT
    write_report(findings, folder)
    print(f"page     {folder / PAGE}\nfigures  {folder / 'figures'}\ntable    {folder / 'table.md'}", flush=True)
    if sweep is not None:
        _attach(sweep, folder)
    return 0


def select_runs(names: list[str], runs_dir: Path) -> Sweep | list[Trial]:
    """The sweep that a user names, or the runs.

    Raises:
        InputError: something is not there, or there are more than one sweep, or a sweep and runs.
    """
    sweeps = [name for name in names if named(name, runs_dir) is not None]
    if sweeps and len(names) > 1:
        other = next((name for name in names if name != sweeps[0]), sweeps[0])
        raise InputError(
            [f"'{sweeps[0]}' is a sweep, and '{other}' stands beside it; name one sweep, or runs and trials alone"]
        )
    if sweeps:
        return find_sweep(sweeps[0], runs_dir)
    trials: dict[Path, Trial] = {}
    problems: list[str] = []
    for name in names:
        try:
            trial = find(name, runs_dir)
            trials[trial.folder] = trial
        except InputError as err:
            problems += err.problems
    if problems and len(names) == 1:
        return _find_by_prefix(names[0], runs_dir, problems[0])
    if problems:
        raise InputError(problems)
    return list(trials.values())


def _find_by_prefix(name: str, runs_dir: Path, problem: str) -> Sweep:
    """The sweep whose name begins so, where no run's does.

    Raises:
        InputError: there is none, or more than one.
    """
    known = [path.parent.name for pattern in ("*/sweep.yaml", "*/*/trial.yaml") for path in runs_dir.glob(pattern)]
    if "not unique" in problem:
        raise InputError([problem])
    if not any(path.startswith(name) for path in known):
        raise InputError([f"there is no sweep or run '{name}' in {runs_dir}; {did_you_mean(name, known)}"])
    return find_sweep(name, runs_dir)


def write_report(findings: Findings, folder: Path) -> None:
    """Write the page, the figures and the table.

    Raises:
        InputError: the folder cannot be written.
    """
    pictures, missing = [], []
    for title, drawn in _draw_figures(findings):
        if isinstance(drawn, Picture):
            pictures.append(drawn)
        else:
            missing.append((title, drawn))
    try:
        figures = folder / "figures"
        figures.mkdir(parents=True, exist_ok=True)
        for picture in pictures:
            (figures / f"{picture.name}.png").write_bytes(picture.png)
            write_text(figures / f"{picture.name}.svg", alone(picture.svg, f"../{PAGE}"))
        write_text(folder / "table.md", format_markdown(findings))
        write_text(folder / PAGE, render_page(findings, pictures, missing, _make_commands(findings)))
    except OSError as err:
        raise InputError([f"-o {folder} cannot be written ({err.strerror}); choose another folder"]) from err


def _draw_figures(findings: Findings) -> Iterator[tuple[str, Picture | str]]:
    """Every picture, or why there is none."""
    yield "Learning curves", learning_curves.draw(findings) or "Nothing was measured yet."
    if (apart := staleness.draw(findings)) is not None:
        yield "Replicas apart", apart
    if findings.kind == "sweep" or findings.varying:
        yield (
            "Result by parameter",
            parameter_plots.draw(findings) or "No parameter varies among the trials with a result.",
        )
        yield (
            "Parallel coordinates",
            parallel_coordinates.draw(findings) or "It takes two parameters that vary, and two results.",
        )
    if findings.kind == "sweep":
        found = importance.compute_importance(findings)
        drawn = found if isinstance(found, str) else importance.draw(found, findings)
        yield "Parameter importance", drawn
        if (spent := cost.draw(findings)) is not None:
            yield "Cost", spent


def _make_commands(findings: Findings) -> list[str]:
    run = findings.best_run
    return [] if run is None else [f"lathe reproduce {shlex.quote(run.reference)}"]


def _attach(sweep: Sweep, folder: Path) -> None:
    """Bring the page to the sweep's run in MLflow; a store that cannot be reached is told, and no fault of the report."""
    if read_tracking_config(sweep)["sync"] == "off":
        return
    if folder.resolve() != (sweep.folder / REPORT).resolve():
        print(f"MLflow   has none of it: only {sweep.folder / REPORT} is brought there, by a report without -o")
        return
    try:
        done = SweepSync(sweep).round()
    except ImportError as err:  # on a node without MLflow
        done = SyncSummary(
            0, 0, (f"{err}; `lathe sync {reference(sweep)}`, where it is installed, brings the report to it",)
        )
    for warning in (*done.failures, *done.warnings):
        print(f"warning: {warning}", file=sys.stderr)
    if not done.failures:
        print(f"MLflow   an artifact of the sweep's run; {mlflow_view.ui_hint(sweep)}")
