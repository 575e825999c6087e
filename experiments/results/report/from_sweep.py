"""What a report tells of a sweep: its ledger, and the journals of its trials."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from experiments.results.report.findings import Findings, ReportRun, group_by_point, hide_secrets
from experiments.results.report.metric_history import History, Series, read_history
from experiments.sweep.ledger import ENDED
from experiments.sweep.status.progress import Progress, ProgressReader, TrialRow
from experiments.sweep.status.text import counts_text, short_keys, why
from experiments.sweep.sweep import Sweep
from experiments.trial.trial import Trial


def collect_from_sweep(sweep: Sweep) -> Findings:
    """Everything that a report tells of a sweep, as it stands now."""
    progress = ProgressReader(sweep, sweep.ledger()).look()
    runs = [_make_run(sweep, row) for row in progress.rows]
    points = group_by_point(runs, progress.mode)
    ahead = progress.best
    return Findings(
        kind="sweep",
        name=sweep.name,
        note=str(sweep.question["note"] or ""),
        asked=_describe_goal(sweep),
        standing=counts_text(progress),
        metric=progress.metric,
        mode=progress.mode,
        short=short_keys(progress.rows),
        points=points,
        best=next((point for point in points if ahead is not None and point.number == ahead.point), None),
        opened=progress.opened,
        until=max((row.since for row in progress.rows), default=progress.opened),
        elapsed_s=progress.elapsed_s,
        used_h=progress.used_h,
        wasted_h=progress.wasted_h,
        attempts=sum(row.attempt for row in progress.rows),
        remarks=tuple(_make_remarks(progress)),
    )


def _make_run(sweep: Sweep, row: TrialRow) -> ReportRun:
    return ReportRun(
        id=row.id,
        reference=Trial(sweep.folder / row.id).reference,
        point=row.point,
        values=hide_secrets(row.values),
        seed=row.seed,
        state=row.state,
        value=row.best,
        step=row.step,
        num_steps=row.num_steps,
        attempts=row.attempt,
        took_s=row.took_s,
        used_h=row.used_h,
        wasted_h=row.wasted_h,
        ended=row.since if row.state in ENDED else None,
        why=why(row),
        series=_read_series(sweep, row),
    )


def _read_series(sweep: Sweep, row: TrialRow) -> Mapping[str, Series]:
    """The curves of a trial; of one whose result was taken from another, that one's."""
    if row.reused is None:
        return read_history(sweep.folder / row.id).series
    elsewhere = Path(row.reused)
    folder = sweep.runs_dir / elsewhere if len(elsewhere.parts) > 1 else sweep.folder / elsewhere
    history = read_history(folder) if folder.is_dir() else History()
    return history.series


def _describe_goal(sweep: Sweep) -> str:
    question = sweep.question
    words = [f"Which point has the {'largest' if question['mode'] == 'max' else 'smallest'} {question['metric']}?"]
    words += [f"Strategy {question['strategy']['name']}"]
    words += [f"pruner {question['pruner']['name']}"] if question["pruner"] else []
    words += [f"{question['seeds']} seeds a point"] if question["seeds"] > 1 else []
    words += [f"{name}={value}" for name, value in question["budget"].items() if value is not None]
    return f"{words[0]} {', '.join(words[1:])}."


def _make_remarks(progress: Progress) -> list[str]:
    found = []
    if not progress.is_over:
        found.append(f"The sweep goes on: {counts_text(progress)}. All of this may still change.")
    for failure, count in progress.failed.items():
        found.append(f"{count} {'trial' if count == 1 else 'trials'} failed: {failure}.")
    if progress.closed:
        found.append(f"It was closed before its end: {progress.closed}.")
    if (reused := sum(row.reused is not None for row in progress.rows)) > 0:
        found.append(f"{reused} of the results were taken from trials that had run already.")
    return found
