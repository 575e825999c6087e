"""`lathe report`: writes the results of a sweep or of runs as a page, figures and a table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from experiments.config.allowlist import trusted
from experiments.core.atomic import write_text
from experiments.core.errors import InputError, did_you_mean
from experiments.core.figures import RenderedFigure, standalone_svg
from experiments.core.files.paths import user_path
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
from experiments.sweep.sweep import Sweep, find_by_full_name, find_sweep, format_reference
from experiments.tracking import mlflow_view
from experiments.tracking.sweep_sync import PAGE, REPORT, SweepSync, SyncSummary, read_tracking_config
from experiments.trial.trial import Trial, find_trial


def report(args: argparse.Namespace) -> int:
    """Write the report, and print its paths."""
    selected = select_runs(args.runs, Path(args.runs_dir))
    sweep = selected if isinstance(selected, Sweep) else None
    findings = collect_from_sweep(selected) if isinstance(selected, Sweep) else collect_from_runs(selected)
    folder = user_path(args.output, "-o") if args.output else (sweep.folder if sweep else Path()) / REPORT
    write_report(findings, folder)
    print(f"page     {folder / PAGE}\nfigures  {folder / 'figures'}\ntable    {folder / 'table.md'}", flush=True)
    if sweep is not None:
        _attach(sweep, folder)
    return 0


def select_runs(names: list[str], runs_dir: Path) -> Sweep | list[Trial]:
    """Find the sweep or the runs that a user names.

    Raises:
        InputError: a name does not exist, or a sweep is named together with other names.
    """
    sweeps = [name for name in names if find_by_full_name(name, runs_dir) is not None]
    if sweeps and len(names) > 1:
        other = next((name for name in names if name != sweeps[0]), sweeps[0])
        raise InputError(
            [f"'{sweeps[0]}' is a sweep, and '{other}' is given as well; name one sweep, or only runs and trials"]
        )
    if sweeps:
        return find_sweep(sweeps[0], runs_dir, trusted())
    trials: dict[Path, Trial] = {}
    problems: list[str] = []
    for name in names:
        try:
            trial = find_trial(name, runs_dir)
            trials[trial.folder] = trial
        except InputError as err:
            problems += err.problems
    if problems and len(names) == 1:
        return _find_by_prefix(names[0], runs_dir, problems[0])
    if problems:
        raise InputError(problems)
    return list(trials.values())


def _find_by_prefix(name: str, runs_dir: Path, problem: str) -> Sweep:
    """Find the sweep whose name has this prefix, if no run has it.

    Raises:
        InputError: there is none, or more than one.
    """
    known = [path.parent.name for pattern in ("*/sweep.yaml", "*/*/trial.yaml") for path in runs_dir.glob(pattern)]
    if "not unique" in problem:
        raise InputError([problem])
    if not any(path.startswith(name) for path in known):
        raise InputError([f"there is no sweep or run '{name}' in {runs_dir}; {did_you_mean(name, known)}"])
    return find_sweep(name, runs_dir, trusted())


def write_report(findings: Findings, folder: Path) -> None:
    """Write the page, the figures and the table.

    Raises:
        InputError: the folder cannot be written.
    """
    pictures, missing = [], []
    for title, result in _draw_figures(findings):
        if isinstance(result, RenderedFigure):
            pictures.append(result)
        else:
            missing.append((title, result))
    try:
        figures = folder / "figures"
        figures.mkdir(parents=True, exist_ok=True)
        for picture in pictures:
            (figures / f"{picture.name}.png").write_bytes(picture.png)
            write_text(figures / f"{picture.name}.svg", standalone_svg(picture.svg, f"../{PAGE}"))
        write_text(folder / "table.md", format_markdown(findings))
        write_text(folder / PAGE, render_page(findings, pictures, missing, _make_commands(findings)))
    except OSError as err:
        raise InputError([f"-o {folder} cannot be written ({err.strerror}); choose another folder"]) from err


def _draw_figures(findings: Findings) -> Iterator[tuple[str, RenderedFigure | str]]:
    """Draw every figure; yield its title, and the picture or the reason why there is none."""
    yield "Learning curves", learning_curves.draw(findings) or "No metric is logged yet."
    if (replicas := staleness.draw(findings)) is not None:
        yield "Asynchronous replicas", replicas
    if findings.kind == "sweep" or findings.varying:
        yield (
            "Result by parameter",
            parameter_plots.draw(findings) or "No parameter varies among the trials with a result.",
        )
        yield (
            "Parallel coordinates",
            parallel_coordinates.draw(findings) or "This figure needs two parameters that vary and two results.",
        )
    if findings.kind == "sweep":
        result = importance.compute_importance(findings)
        yield "Parameter importance", result if isinstance(result, str) else importance.draw(result, findings)
        if (picture := cost.draw(findings)) is not None:
            yield "Cost", picture


def _make_commands(findings: Findings) -> list[str]:
    run = findings.best_run
    return [] if run is None else [f"lathe reproduce {run.reference}"]


def _attach(sweep: Sweep, folder: Path) -> None:
    """Upload the page to the run of the sweep in MLflow; a store that cannot be reached is only a warning."""
    if read_tracking_config(sweep)["sync"] == "off":
        return
    if folder.resolve() != (sweep.folder / REPORT).resolve():
        print(f"MLflow   not uploaded: only {sweep.folder / REPORT} is uploaded, by `lathe report` without -o")
        return
    try:
        summary = SweepSync(sweep).sync()
    except ImportError as err:  # on a node without MLflow
        summary = SyncSummary(
            0, 0, (f"{err}; run `lathe sync {format_reference(sweep)}` on a machine that has MLflow",)
        )
    for warning in (*summary.failures, *summary.warnings):
        print(f"warning: {warning}", file=sys.stderr)
    if not summary.failures:
        print(f"MLflow   uploaded as an artifact of the run of the sweep; {mlflow_view.ui_hint(sweep)}")
