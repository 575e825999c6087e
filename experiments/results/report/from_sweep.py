"""Collects the report of a sweep, from its ledger and the journals of its trials."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from experiments.results.report.findings import Findings, ReportRun, group_by_point, hide_secrets
from experiments.results.report.metric_history import History, Series, read_history
from experiments.run.metrics import delivered_name
from experiments.sweep.ledger import ENDED
from experiments.sweep.status.progress import Progress, ProgressReader, TrialRow
from experiments.sweep.status.text import describe_repeats, find_short_keys, format_counts, format_reason
from experiments.sweep.sweep import Sweep
from experiments.trial.trial import Trial


def collect_from_sweep(sweep: Sweep) -> Findings:
    """Collect the report of a sweep in its present state."""
    progress = ProgressReader(sweep, sweep.ledger()).read()
    runs = [_make_run(sweep, row) for row in progress.rows]
    points = group_by_point(runs, progress.mode, progress.average_over)
    best = progress.best
    return Findings(
        kind="sweep",
        name=sweep.name,
        description=str(sweep.spec["description"] or ""),
        goal=_describe_goal(sweep),
        status=format_counts(progress),
        metric=progress.metric,
        mode=progress.mode,
        short=find_short_keys(progress.rows),
        points=points,
        best=next((point for point in points if best is not None and point.number == best.point), None),
        opened=progress.opened,
        until=max((row.since for row in progress.rows), default=progress.opened),
        elapsed_s=progress.elapsed_s,
        used_h=progress.used_h,
        wasted_h=progress.wasted_h,
        attempts=sum(row.attempt for row in progress.rows),
        remarks=tuple(_make_remarks(progress)),
        average_over=progress.average_over,
    )


def _make_run(sweep: Sweep, row: TrialRow) -> ReportRun:
    return ReportRun(
        id=row.id,
        reference=Trial(sweep.folder / row.id).reference,
        point=row.point,
        values=hide_secrets(row.values),
        seed=row.seed,
        state=row.state,
        value=row.value,
        step=row.step,
        num_steps=row.num_steps,
        attempts=row.attempt,
        duration_s=row.took_s,
        used_h=row.used_h,
        wasted_h=row.wasted_h,
        ended=row.since if row.state in ENDED else None,
        reason=format_reason(row),
        series=_read_series(sweep, row),
    )


def _read_series(sweep: Sweep, row: TrialRow) -> Mapping[str, Series]:
    """Read the curves of a trial; if its result was reused, the curves of the trial that it was taken from."""
    if row.reused is None:
        return read_history(sweep.folder / row.id).series
    source = Path(row.reused)
    folder = sweep.runs_dir / source if len(source.parts) > 1 else sweep.folder / source
    history = read_history(folder) if folder.is_dir() else History()
    return history.series


def _describe_goal(sweep: Sweep) -> str:
    spec = sweep.spec
    parts = [f"strategy {spec['strategy']['name']}"]
    parts += [f"pruner {spec['pruner']['name']}"] if spec["pruner"] else []
    parts += describe_repeats(spec)
    parts += [f"{name}={value}" for name, value in spec["budget"].items() if value is not None]
    wanted = "largest" if spec["mode"] == "max" else "smallest"
    return f"Search for the {wanted} {delivered_name(spec['metric'])}: {', '.join(parts)}."


def _make_remarks(progress: Progress) -> list[str]:
    remarks = []
    if not progress.is_over:
        remarks.append(f"The sweep is not over: {format_counts(progress)}. Results may still change.")
    for failure, count in progress.failed.items():
        remarks.append(f"{count} {'trial' if count == 1 else 'trials'} failed: {failure}.")
    if progress.closed:
        remarks.append(f"The sweep was closed early: {progress.closed}.")
    if (reused := sum(row.reused is not None for row in progress.rows)) > 0:
        remarks.append(f"{reused} {'result is' if reused == 1 else 'results are'} reused from trials that ran earlier.")
    return remarks
