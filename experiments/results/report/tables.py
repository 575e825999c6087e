"""The tables of a report, for the page and as Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.core.format import format_number, format_point, format_value
from experiments.results.report.cost import collect_usage, format_device_time, format_quantity, summarize_cost
from experiments.results.report.findings import Findings, ReportRun, describe_rivals, find_train_loss, list_test_metrics

MAX_KEYS, MAX_TESTS = 12, 3
MAX_IDS = 4
MAX_DECIMALS = 5
RATE = "perf/updates_per_s"
ASYNC_METRICS = {
    "updates/s": RATE, "staleness, mean": "async/staleness_mean", "95 %": "async/staleness_p95",
    "servers' busy share": "async/server_busy_fraction",
}  # fmt: skip
MIN_FIXED = 0.01
"""From this value on, as many decimals as significant digits are enough."""


@dataclass(frozen=True)
class Cell:
    """The text of a value, its sort key, and the runs that it links to."""

    text: str
    sort: float | str | None = None
    """None: sort by the text."""
    runs: Sequence[str] = ()
    is_best: bool = False

    @property
    def sort_key(self) -> str | None:
        """The key by which the script of the page sorts; None: by the text."""
        if not isinstance(self.sort, (int, float)):
            return None
        return "" if math.isnan(self.sort) else repr(self.sort).replace("inf", "Infinity")


@dataclass(frozen=True)
class Column:
    name: str
    cells: list[Cell]

    @property
    def is_number(self) -> bool:
        """Whether the column is right-aligned."""
        known = [cell for cell in self.cells if cell.text]
        return bool(known) and all(isinstance(cell.sort, (int, float)) for cell in known)


@dataclass(frozen=True)
class Table:
    columns: list[Column]
    ids: list[str] = field(default_factory=list)
    """The run of each row; empty if rows are not runs."""

    @property
    def rows(self) -> list[tuple[Cell, ...]]:
        return list(zip(*(column.cells for column in self.columns), strict=True))


def make_points_table(findings: Findings) -> Table:
    """One row per point: mean, standard deviation and 95 % interval over its runs, its cost and its trials."""
    points, best = findings.points, findings.best
    columns = [_make_value_column(findings, key, [point.values for point in points]) for key in _select_keys(findings)]
    means = _make_metric_column(
        findings.value_name, [point.value for point in points], [point is best for point in points]
    )
    for index, point in enumerate(points):
        if point.value is None:
            means.cells[index] = Cell(", ".join(dict.fromkeys(run.state for run in point.runs)), math.inf)
    columns.append(means)
    if findings.has_seeds:
        columns.append(_make_metric_column("± std", [point.spread for point in points], digits=2))
        columns.append(_make_metric_column("± 95 %", [point.half_width for point in points], digits=2))
        done = [Cell(f"{len(point.finished)}/{len(point.runs)}", len(point.finished)) for point in points]
        columns.append(Column("finished" if findings.average_over else "seeds", done))
    columns.append(_make_time_column("device time", [sum(run.used_h or 0.0 for run in point.runs) for point in points]))
    ids = [[run.id for run in point.runs] for point in points]
    name = "trials" if findings.kind == "sweep" else "run"
    return Table([*columns, Column(name, [Cell(", ".join(some), runs=some) for some in ids])])


def make_trials_table(findings: Findings) -> Table:
    """One row per trial, best first."""
    runs, best = findings.runs, findings.best_run
    extra = [
        name
        for name in [find_train_loss(runs), *list_test_metrics(runs)[:MAX_TESTS]]
        if name and name not in (findings.value_name, findings.metric)
    ]
    ids = [Cell(run.id, runs=[run.id]) for run in runs]
    columns = [Column(findings.noun, ids)]
    keys = [*_select_keys(findings), *findings.average_over]
    columns += [_make_value_column(findings, key, [run.values for run in runs]) for key in keys]
    columns += [_make_count_column("seed", [run.seed for run in runs])] if len({run.seed for run in runs}) > 1 else []
    columns.append(Column("state", [Cell(run.state) for run in runs]))
    columns.append(_make_metric_column(findings.value_name, [run.value for run in runs], [run is best for run in runs]))
    if findings.metric != findings.value_name:
        columns.append(_make_metric_column(findings.metric, [run.last(findings.metric) for run in runs]))
    columns += [_make_metric_column(name, [run.last(name) for run in runs]) for name in extra]
    columns.append(Column("step", [Cell(_format_steps(run), run.step) for run in runs]))
    columns.append(_make_count_column("attempts", [run.attempts for run in runs]))
    columns.append(_make_time_column("device time", [run.used_h for run in runs]))
    columns += [_make_time_column("wasted", [run.wasted_h for run in runs])] if findings.wasted_h else []
    columns += [Column("reason", [Cell(run.reason) for run in runs])] if any(run.reason for run in runs) else []
    return Table(columns, [run.id for run in runs])


def make_differences_table(findings: Findings) -> Table:
    """One row per key that differs between the configurations, one column per run."""
    runs, keys = findings.runs, list(findings.short)
    has_seeds = len({run.seed for run in runs}) > 1
    columns = [Column("key", [Cell(key) for key in [*keys, *(["seed"] if has_seeds else [])]])]
    for run in runs:
        cells = [_make_value_cell(run.values, key) for key in keys]
        columns.append(Column(run.id, cells + ([Cell(str(run.seed), run.seed)] if has_seeds else [])))
    return Table(columns)


def make_usage_table(findings: Findings) -> Table:
    """One row per throughput, cost or load metric: the median over all runs, and the runs with the extremes."""
    usage = collect_usage(findings)
    ends = {"lowest": [metric.low for metric in usage], "highest": [metric.high for metric in usage]}
    columns = [Column("metric", [Cell(metric.name) for metric in usage])]
    columns.append(Column("median", [Cell(format_quantity(metric.median), metric.median) for metric in usage]))
    for name, extremes in ends.items():
        columns.append(Column(name, [Cell(format_quantity(value), value) for value, _ in extremes]))
        columns.append(Column("of", [Cell(run, runs=[run]) for _, run in extremes]))
    return Table([*columns, _make_count_column("runs", [metric.num_runs for metric in usage])])


def make_replicas_table(findings: Findings) -> Table:
    """One row per point with parameter servers: medians over its first run."""
    points = [point for point in findings.points if RATE in point.runs[0].series]
    runs = [point.runs[0] for point in points]

    paces: list[list[float]] = [sorted(_list_paces(run)) or [math.nan] for run in runs]
    columns = [_make_value_column(findings, key, [point.values for point in points]) for key in _select_keys(findings)]
    columns += [
        _make_quantity_column(name, [_compute_median(run, metric) for run in runs])
        for name, metric in ASYNC_METRICS.items()
    ]
    columns.append(_make_quantity_column("MiB per step, pushed and pulled", [_compute_traffic(run) for run in runs]))
    columns.append(_make_quantity_column("examples/s of the slowest replica", [pace[0] for pace in paces]))
    columns.append(_make_quantity_column("of the fastest", [pace[-1] for pace in paces]))
    return Table([*columns, Column("run", [Cell(run.id, runs=[run.id]) for run in runs])])


def _make_quantity_column(name: str, values: Sequence[float | None]) -> Column:
    known = [None if value is None or math.isnan(value) else value for value in values]
    return Column(
        name, [Cell("" if value is None else format_quantity(value), _replace_none(value)) for value in known]
    )


def _compute_median(run: ReportRun, name: str) -> float | None:
    return run.series[name].median() if name in run.series else None


def _compute_traffic(run: ReportRun) -> float | None:
    """Compute MiB per step; every point of a curve counts the traffic since the previous point."""
    steps = [step for step, _ in run.series["async/pushed_mib"].curve()] if "async/pushed_mib" in run.series else []
    pushed, pulled = _compute_median(run, "async/pushed_mib"), _compute_median(run, "async/pulled_mib")
    if len(steps) < 2 or pushed is None or pulled is None:
        return None
    return (pushed + pulled) * run.series["async/pushed_mib"].width / ((steps[-1] - steps[0]) / (len(steps) - 1))


def _list_paces(run: ReportRun) -> list[float]:
    """List the examples per second of every replica."""
    paces = [
        _compute_median(run, name) for name in run.series if re.fullmatch(r"async/replica_\d+_examples_per_s", name)
    ]
    return [pace for pace in paces if pace is not None]


def format_markdown(findings: Findings) -> str:
    """Format the points, their cost and the command that reproduces the best, for a paper or a pull request."""
    parts = [f"### {_escape(findings.name)}", _escape(findings.goal), _format_table(make_points_table(findings))]
    parts += [f"_{_escape(text)}_" for text in findings.remarks]
    parts.append(", ".join(f"{name} {text}" for name, text in summarize_cost(findings).items()).capitalize() + ".")
    best, run = findings.best, findings.best_run
    if best is not None and run is not None:
        at = f" at {_format_code(format_point(best.values))}" if best.values else ""
        value = f"{_escape(findings.value_name)} {format_number(best.value)}"
        parts.append(
            f"Best: {value}{at}, of {_format_ids([one.id for one in best.runs])}; "
            f"reproduce it with {_format_code(f'lathe reproduce {run.reference}')}."
        )
        parts += filter(None, [_escape(describe_rivals(findings))])
    return "\n\n".join(parts) + "\n"


def _format_table(table: Table) -> str:
    lines = [[_escape(column.name) for column in table.columns]]
    lines.append(["---:" if column.is_number else ":---" for column in table.columns])
    lines += [[_format_cell(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _format_cell(cell: Cell) -> str:
    if cell.runs:
        return _format_ids(cell.runs)
    return f"**{_escape(cell.text)}**" if cell.is_best and cell.text else _escape(cell.text)


def _escape(text: str) -> str:
    """Escape what Markdown interprets; an underscore inside a word needs no escape."""
    clean = re.sub(r"([\\|*`<>\[\]#~$])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", clean)


def _format_code(text: str) -> str:
    clean = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{clean}`"


def _format_ids(runs: Sequence[str]) -> str:
    more = f" and {len(runs) - MAX_IDS} more" if len(runs) > MAX_IDS else ""
    return ", ".join(_format_code(run) for run in runs[:MAX_IDS]) + more


def _select_keys(findings: Findings) -> list[str]:
    """Select the keys that get a column; all keys if there is one point."""
    return (findings.varying or list(findings.short))[:MAX_KEYS]


def _make_value_column(findings: Findings, key: str, points: Sequence[Mapping[str, Any]]) -> Column:
    return Column(findings.short[key], [_make_value_cell(values, key) for values in points])


def _make_value_cell(values: Mapping[str, Any], key: str) -> Cell:
    if key not in values:
        return Cell("", math.nan)
    value = values[key]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    text = f"{value:.6g}" if isinstance(value, float) else format_value(value)
    return Cell(text, float(value) if is_number else text)


def _make_metric_column(
    name: str, values: Sequence[float | None], best: Sequence[bool] = (), digits: int = 4
) -> Column:
    """Make a column of metric values that all have the number of decimals of the longest."""
    texts = ["" if value is None else f"{value:.{digits}g}" for value in values]
    decimals = max((len(text.partition(".")[2]) for text in texts), default=0)
    if min((abs(value) for value in values if value), default=0.0) >= MIN_FIXED:
        decimals = min(decimals, digits)
    if decimals <= MAX_DECIMALS and not any("e" in text for text in texts):
        texts = [text and f"{value:.{decimals}f}" for text, value in zip(texts, values, strict=True)]
    marks = best or [False] * len(texts)
    return Column(
        name,
        [Cell(text, _replace_none(value), (), mark) for text, value, mark in zip(texts, values, marks, strict=True)],
    )


def _make_time_column(name: str, values: Sequence[float | None]) -> Column:
    """Device-hours."""
    return Column(
        name, [Cell("" if hours is None else format_device_time(hours), _replace_none(hours)) for hours in values]
    )


def _make_count_column(name: str, values: Sequence[int]) -> Column:
    return Column(name, [Cell(str(value), value) for value in values])


def _format_steps(run: ReportRun) -> str:
    return str(run.step) if run.num_steps in (None, run.step) else f"{run.step}/{run.num_steps}"


def _replace_none(value: float | None) -> float:
    return math.nan if value is None else value
