"""The tables of a report, as a page shows them and as Markdown for a paper or a pull request."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.core.format import number, point_text, shown
from experiments.results.report.cost import device_time, facts, quantity, totals
from experiments.results.report.findings import Findings, ReportRun, loss_of, tests_of

MOST_KEYS, MOST_TESTS = 12, 3
MOST_IDS = 4
MOST_DECIMALS = 5
RATE = "perf/updates_per_s"
SERVED = {
    "updates/s": RATE, "staleness, mean": "async/staleness_mean", "95 %": "async/staleness_p95",
    "servers' busy share": "async/server_busy_share",
}  # fmt: skip
LEAST_LARGE = 0.01
"""From which as many decimals as digits are enough."""


@dataclass(frozen=True)
class Cell:
    """One value, what to sort it by, and the runs that it is of."""

    text: str
    sort: float | str | None = None
    """None: the text."""
    runs: Sequence[str] = ()
    is_best: bool = False

    @property
    def sort_key(self) -> str | None:
        """What the page's script sorts by instead of the text; None: the text."""
        if not isinstance(self.sort, (int, float)):
            return None
        return "" if math.isnan(self.sort) else repr(self.sort).replace("inf", "Infinity")


@dataclass(frozen=True)
class Column:
    name: str
    cells: list[Cell]

    @property
    def is_number(self) -> bool:
        """Whether it is set to the right."""
        known = [cell for cell in self.cells if cell.text]
        return bool(known) and all(isinstance(cell.sort, (int, float)) for cell in known)


@dataclass(frozen=True)
class Table:
    columns: list[Column]
    ids: list[str] = field(default_factory=list)
    """Of every row the run that it tells of, where it is one."""

    @property
    def rows(self) -> list[tuple[Cell, ...]]:
        return list(zip(*(column.cells for column in self.columns), strict=True))


def points_table(findings: Findings) -> Table:
    """A row a point: mean and deviation over its seeds, what it cost, and its trials."""
    points, best = findings.points, findings.best
    columns = [_values(findings, key, [point.values for point in points]) for key in _keys(findings)]
    means = _measured(findings.metric, [point.value for point in points], [point is best for point in points])
    for index, point in enumerate(points):
        if point.value is None:
            means.cells[index] = Cell(", ".join(dict.fromkeys(run.state for run in point.runs)), math.inf)
    columns.append(means)
    if findings.has_seeds:
        columns.append(_measured("± std", [point.spread for point in points], digits=2))
        done = [Cell(f"{len(point.finished)}/{len(point.runs)}", len(point.finished)) for point in points]
        columns.append(Column("seeds", done))
    columns.append(_times("device time", [sum(run.used_h or 0.0 for run in point.runs) for point in points]))
    ids = [[run.id for run in point.runs] for point in points]
    name = "trials" if findings.kind == "sweep" else "run"
    return Table([*columns, Column(name, [Cell(", ".join(some), runs=some) for some in ids])])


def trials_table(findings: Findings) -> Table:
    """A row a trial, the best first, with all that can be said of it in a line."""
    runs, best = findings.runs, findings.best_run
    extra = [name for name in [loss_of(runs), *tests_of(runs)[:MOST_TESTS]] if name and name != findings.metric]
    ids = [Cell(run.id, runs=[run.id]) for run in runs]
    columns = [Column(findings.noun, ids)]
    columns += [_values(findings, key, [run.values for run in runs]) for key in _keys(findings)]
    columns += [_counts("seed", [run.seed for run in runs])] if findings.has_seeds else []
    columns.append(Column("state", [Cell(run.state) for run in runs]))
    columns.append(_measured(findings.metric, [run.value for run in runs], [run is best for run in runs]))
    columns += [_measured("last", [run.last(findings.metric) for run in runs])]
    columns += [_measured(name, [run.last(name) for run in runs]) for name in extra]
    columns.append(Column("step", [Cell(_steps(run), run.step) for run in runs]))
    columns.append(_counts("attempts", [run.attempts for run in runs]))
    columns.append(_times("device time", [run.used_h for run in runs]))
    columns += [_times("wasted", [run.wasted_h for run in runs])] if findings.wasted_h else []
    columns += [Column("why", [Cell(run.why) for run in runs])] if any(run.why for run in runs) else []
    return Table(columns, [run.id for run in runs])


def differences_table(findings: Findings) -> Table:
    """A row a key that the configurations of runs differ by, a column a run."""
    runs, keys = findings.runs, list(findings.short)
    has_seeds = len({run.seed for run in runs}) > 1
    columns = [Column("key", [Cell(key) for key in [*keys, *(["seed"] if has_seeds else [])]])]
    for run in runs:
        cells = [_value(run.values, key) for key in keys]
        columns.append(Column(run.id, cells + ([Cell(str(run.seed), run.seed)] if has_seeds else [])))
    return Table(columns)


def facts_table(findings: Findings) -> Table:
    """A row a metric of the machine: the middle of all runs, and the runs at its ends."""
    found = facts(findings)
    ends = {"lowest": [fact.low for fact in found], "highest": [fact.high for fact in found]}
    columns = [Column("metric", [Cell(fact.name) for fact in found])]
    columns.append(Column("median", [Cell(quantity(fact.middle), fact.middle) for fact in found]))
    for name, told in ends.items():
        columns.append(Column(name, [Cell(quantity(value), value) for value, _ in told]))
        columns.append(Column("of", [Cell(run, runs=[run]) for _, run in told]))
    return Table([*columns, _counts("runs", [fact.num_runs for fact in found])])


def replicas_table(findings: Findings) -> Table:
    """A row a point with parameter servers: medians over its first run."""
    points = [point for point in findings.points if RATE in point.runs[0].series]
    runs = [point.runs[0] for point in points]

    paces: list[list[float]] = [sorted(_paces(run)) or [math.nan] for run in runs]
    columns = [_values(findings, key, [point.values for point in points]) for key in _keys(findings)]
    columns += [_quantities(name, [_middle(run, metric) for run in runs]) for name, metric in SERVED.items()]
    columns.append(_quantities("MiB a step, pushed and pulled", [_moved(run) for run in runs]))
    columns.append(_quantities("examples/s of the slowest replica", [pace[0] for pace in paces]))
    columns.append(_quantities("of the fastest", [pace[-1] for pace in paces]))
    return Table([*columns, Column("run", [Cell(run.id, runs=[run.id]) for run in runs])])


def _quantities(name: str, values: Sequence[float | None]) -> Column:
    known = [None if value is None or math.isnan(value) else value for value in values]
    return Column(name, [Cell("" if value is None else quantity(value), _nan(value)) for value in known])


def _middle(run: ReportRun, name: str) -> float | None:
    return run.series[name].middle() if name in run.series else None


def _moved(run: ReportRun) -> float | None:
    """Every point of a curve has what was moved since the one before."""
    steps = [step for step, _ in run.series["async/pushed_mib"].curve()] if "async/pushed_mib" in run.series else []
    pushed, pulled = _middle(run, "async/pushed_mib"), _middle(run, "async/pulled_mib")
    if len(steps) < 2 or pushed is None or pulled is None:
        return None
    return (pushed + pulled) * run.series["async/pushed_mib"].width / ((steps[-1] - steps[0]) / (len(steps) - 1))


def _paces(run: ReportRun) -> list[float]:
    """Examples a second of every replica, or group."""
    found = [_middle(run, name) for name in run.series if re.fullmatch(r"async/replica_\d+_examples_per_s", name)]
    return [pace for pace in found if pace is not None]


def as_markdown(findings: Findings) -> str:
    """The points, what they cost and how to have the best again, for a paper or a pull request."""
    parts = [f"### {_plain(findings.name)}", _plain(findings.asked), _table(points_table(findings))]
    parts += [f"_{_plain(text)}_" for text in findings.remarks]
    parts.append(", ".join(f"{name} {text}" for name, text in totals(findings).items()).capitalize() + ".")
    best, run = findings.best, findings.best_run
    if best is not None and run is not None:
        at = f" at {_code(point_text(best.values))}" if best.values else ""
        parts.append(
            f"Best: {_plain(findings.metric)} {number(best.value)}{at}, of {_ids([one.id for one in best.runs])}; "
            f"again with {_code(f'lathe reproduce {run.reference}')}."
        )
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    lines = [[_plain(column.name) for column in table.columns]]
    lines.append(["---:" if column.is_number else ":---" for column in table.columns])
    lines += [[_marked(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _marked(cell: Cell) -> str:
    if cell.runs:
        return _ids(cell.runs)
    return f"**{_plain(cell.text)}**" if cell.is_best and cell.text else _plain(cell.text)


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is; inside of a word it leaves an underscore alone."""
    clean = re.sub(r"([\\|*`<>\[\]#~$])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", clean)


def _code(text: str) -> str:
    clean = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{clean}`"


def _ids(runs: Sequence[str]) -> str:
    more = f" and {len(runs) - MOST_IDS} more" if len(runs) > MOST_IDS else ""
    return ", ".join(_code(run) for run in runs[:MOST_IDS]) + more


def _keys(findings: Findings) -> list[str]:
    """The keys that get a column; of a single point all."""
    return (findings.varying or list(findings.short))[:MOST_KEYS]


def _values(findings: Findings, key: str, points: Sequence[Mapping[str, Any]]) -> Column:
    return Column(findings.short[key], [_value(values, key) for values in points])


def _value(values: Mapping[str, Any], key: str) -> Cell:
    if key not in values:
        return Cell("", math.nan)
    value = values[key]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    text = f"{value:.6g}" if isinstance(value, float) else shown(value)
    return Cell(text, float(value) if is_number else text)


def _measured(name: str, values: Sequence[float | None], best: Sequence[bool] = (), digits: int = 4) -> Column:
    """Values of a metric, with as many decimals in all as the longest needs."""
    texts = ["" if value is None else f"{value:.{digits}g}" for value in values]
    decimals = max((len(text.partition(".")[2]) for text in texts), default=0)
    if min((abs(value) for value in values if value), default=0.0) >= LEAST_LARGE:
        decimals = min(decimals, digits)
    if decimals <= MOST_DECIMALS and not any("e" in text for text in texts):
        texts = [text and f"{value:.{decimals}f}" for text, value in zip(texts, values, strict=True)]
    marks = best or [False] * len(texts)
    return Column(
        name, [Cell(text, _nan(value), (), mark) for text, value, mark in zip(texts, values, marks, strict=True)]
    )


def _times(name: str, values: Sequence[float | None]) -> Column:
    """Device-hours."""
    return Column(name, [Cell("" if hours is None else device_time(hours), _nan(hours)) for hours in values])


def _counts(name: str, values: Sequence[int]) -> Column:
    return Column(name, [Cell(str(value), value) for value in values])


def _steps(run: ReportRun) -> str:
    return str(run.step) if run.num_steps in (None, run.step) else f"{run.step}/{run.num_steps}"


def _nan(value: float | None) -> float:
    return math.nan if value is None else value
