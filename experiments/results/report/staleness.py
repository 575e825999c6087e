"""Asynchronous replicas: the metric against training time, and the staleness of the gradients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from experiments.core import figures
from experiments.core.format import format_number, format_point
from experiments.results.report.axis_scale import shorten
from experiments.results.report.findings import Findings, ReportRun, rank_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STALE_FRACTION, STEP_TIME, RATE = "async/stale_fraction/", "perf/step_time_ms", "perf/updates_per_s"
MAX_POINTS = len(figures.SERIES)
MAX_LABEL = 58


def draw(findings: Findings) -> figures.RenderedFigure | None:
    """Draw both panels; None if no run has parameter servers."""
    if not any(name.startswith(STALE_FRACTION) for run in findings.runs for name in run.series):
        return None
    having = [point for point in findings.points if findings.metric in point.runs[0].series]
    shown = sorted(having, key=lambda point: rank_key(point.value, findings.mode))[:MAX_POINTS]
    if not shown:
        return None
    tips = figures.Tooltips()
    with figures.new_figure(1, 2, 3.5 + 0.21 * math.ceil(len(shown) / 2)) as (figure, (left, right)):
        lines, labels = [], []
        for index, point in enumerate(shown):
            run = point.runs[0]
            label = shorten(format_point(point.values, findings.short), MAX_LABEL)
            curve = _compute_time_curve(run, findings.metric)
            (line,) = left.plot([seconds for seconds, _ in curve], [value for _, value in curve], **_get_style(index))
            tips.mark(line, f"{label}\n{_format_rate(run)}\n{run.id}", run.id)
            _draw_staleness(right, index, run)
            lines.append(line)
            labels.append(label)
        left.set_xlabel("training time without evaluations, s")
        left.set_ylabel(findings.metric)
        right.set_xlabel("staleness (updates since the weights were pulled)")
        right.set_ylabel("fraction of gradients")
        right.set_xticks(range(9), [*map(str, range(8)), "8+"])
        figure.legend(
            lines,
            labels,
            loc="outside lower left",
            ncols=2 if max(map(len, labels)) < MAX_LABEL else 1,
            handlelength=3.4,
        )
        return figures.render(
            figure, "replicas", title="Asynchronous replicas", alt=f"{findings.metric} against seconds, and staleness",
            caption="The first seed of every point; the table has medians over its training.", tips=tips,
        )  # fmt: skip


def _compute_time_curve(run: ReportRun, metric: str) -> list[tuple[float, float]]:
    """Compute a metric by training time: the sum of the step times, without evaluations."""
    if metric not in run.series or STEP_TIME not in run.series:
        return []
    values = dict(run.series[metric].curve())
    curve, seconds, before = [], 0.0, 0
    times = run.series[STEP_TIME].curve()
    for step in sorted(values):
        while times and before < step:
            until, milliseconds = times[0]
            part = min(until, step) - before
            seconds += milliseconds / 1e3 * part
            before += part
            if until <= before:
                times = times[1:]
        curve.append((seconds, values[step]))
    return curve


def _draw_staleness(axis: Axes, index: int, run: ReportRun) -> None:
    names = [name for name in run.series if name.startswith(STALE_FRACTION)]
    curves = {name.removeprefix(STALE_FRACTION): run.series[name].curve() for name in names}
    if not curves:
        return
    ordered = sorted(curves, key=lambda name: int(name.partition("_")[0]))
    means = [sum(value for _, value in curves[name]) / len(curves[name]) for name in ordered]
    axis.plot(range(len(means)), means, **_get_style(index))


def _get_style(index: int) -> dict[str, Any]:
    """The look of one point's curves, the same in both panels."""
    dashes, markers = figures.DASHES, figures.MARKERS
    return {
        "color": figures.SERIES[index],
        "linestyle": dashes[index % len(dashes)],
        "marker": markers[index % len(markers)],
        "markersize": 4,
    }


def _format_rate(run: ReportRun) -> str:
    rate = run.series[RATE].median() if RATE in run.series else None
    return "" if rate is None else f"{format_number(rate)} updates/s"
