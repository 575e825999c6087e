"""The learning curves of a report: the mean over the seeds of a point, in a band from the lowest to the highest seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from experiments.core import figures
from experiments.core.format import format_number, format_point
from experiments.results.report.axis_scale import shorten
from experiments.results.report.findings import Findings, Point, ReportRun, find_train_loss, rank_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_HIGHLIGHTED = len(figures.SERIES)
NUM_BEST = 5
"""Curves that are highlighted if there are more than `MAX_HIGHLIGHTED`."""
MAX_GREY = 60
MAX_LABEL = 58


@dataclass(frozen=True)
class Band:
    """One metric of a point over the steps."""

    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]
    runs: tuple[ReportRun, ...]


def compute_band(point: Point, metric: str) -> Band | None:
    """Compute the band of a metric of a point; None if no run has the metric.

    The mean is over the finished and pruned seeds, else over all seeds, at the steps that they share.
    """
    having = [run for run in point.runs if metric in run.series]
    runs = [run for run in having if run.state in ("finished", "pruned")] or having
    curves = [dict(run.series[metric].curve()) for run in runs]
    if not curves:
        return None
    shared = [step for step in curves[0] if all(step in curve for curve in curves)]
    if not shared:  # curves averaged to different steps: use the first run only
        runs, curves, shared = runs[:1], curves[:1], list(curves[0])
    values = [[curve[step] for curve in curves] for step in sorted(shared)]
    is_finite = [all(map(math.isfinite, at_step)) for at_step in values]
    return Band(
        steps=sorted(shared),
        mean=[fmean(at_step) if finite else math.nan for at_step, finite in zip(values, is_finite, strict=True)],
        low=[min(at_step) if finite else math.nan for at_step, finite in zip(values, is_finite, strict=True)],
        high=[max(at_step) if finite else math.nan for at_step, finite in zip(values, is_finite, strict=True)],
        runs=tuple(runs),
    )


def draw(findings: Findings) -> figures.RenderedFigure | None:
    """Draw the metric and the training loss side by side; None if no run has either."""
    metrics = list(dict.fromkeys([findings.metric, *filter(None, [find_train_loss(findings.runs)])]))
    having = [
        point for point in findings.points if any(metric in run.series for run in point.runs for metric in metrics)
    ]
    if not having:
        return None
    highlighted, grey = _split_points(having, findings.mode)
    tips = figures.Tooltips()
    height_in = 3.5 + 0.21 * math.ceil((len(highlighted) + bool(grey)) / 2)
    with figures.new_figure(1, len(metrics), height_in) as (figure, axes):
        panels = [
            _draw_panel(axis, metric, highlighted, grey, findings, tips)
            for axis, metric in zip(axes, metrics, strict=True)
        ]
        handles = max((lines for lines, _ in panels), key=len)
        labels = [_make_label(point, findings) for point in highlighted]
        labels += [f"{len(grey)} other points"] if grey else []
        figure.legend(
            handles, labels, loc="outside lower left", ncols=2 if max(map(len, labels)) < MAX_LABEL else 1,
            handlelength=3.4, columnspacing=2.5, labelspacing=0.45,
        )  # fmt: skip
        return figures.render(
            figure, "curves", title="Learning curves",
            caption=_make_caption(findings, highlighted, grey, metrics, {cut for _, cut in panels}),
            alt=_make_alt(findings, highlighted, metrics), tips=tips,
        )  # fmt: skip


def _split_points(points: Sequence[Point], mode: str) -> tuple[list[Point], list[Point]]:
    """Split points into those with a highlighted curve and those with a grey one."""
    ordered = sorted(points, key=lambda point: rank_key(point.value, mode))
    if len(ordered) <= MAX_HIGHLIGHTED:
        return ordered, []
    return ordered[:NUM_BEST], ordered[NUM_BEST:]


def _draw_panel(
    axis: Axes, metric: str, highlighted: list[Point], grey: list[Point], findings: Findings, tips: figures.Tooltips
) -> tuple[list[Any], str]:
    """Draw one metric; return the lines for the legend and a note on values outside the panel, or ""."""
    drawn: list[Band] = []
    others: list[Any] = []
    for point in grey[:: math.ceil(len(grey) / MAX_GREY) or 1]:
        if (band := compute_band(point, metric)) is not None:
            (line,) = axis.plot(
                band.steps,
                band.mean,
                color=figures.REST,
                linewidth=0.9,
                zorder=1.5,
                marker="." if len(band.steps) == 1 else "",
            )
            tips.mark(line, _make_tip(point, band, metric, findings), band.runs[0].id)
            drawn, others = [*drawn, band], [line]
    lines = []
    for index, point in enumerate(highlighted):
        band = compute_band(point, metric)
        lines.append(_draw_curve(axis, index, band, len(highlighted)))
        if band is not None:
            tips.mark(lines[-1], _make_tip(point, band, metric, findings), band.runs[0].id)
            drawn.append(band)
    axis.margins(x=0.02)
    cut = figures.scale_axis(axis, [value for band in drawn for value in (*band.low, *band.high)])
    axis.set_title(metric)
    axis.set_xlabel("step")
    return lines + (others if grey else []), cut


def _draw_curve(axis: Axes, index: int, band: Band | None, count: int) -> Any:
    colour = figures.SERIES[index]
    steps, mean = (band.steps, band.mean) if band is not None else ([], [])
    if band is not None and len(band.runs) > 1:
        axis.fill_between(band.steps, band.low, band.high, color=colour, alpha=0.16, linewidth=0, zorder=2)
    every = max(1, len(steps) // 6)
    (line,) = axis.plot(
        steps, mean, color=colour, linestyle=figures.DASHES[index], linewidth=1.9 if index == 0 else 1.5,
        marker=figures.MARKERS[index], markersize=4.2, markeredgecolor=figures.PAPER, markeredgewidth=0.6,
        markevery=(index * every // max(1, count), every), zorder=3 + (count - index) / count,
    )  # fmt: skip
    return line


def _make_label(point: Point, findings: Findings) -> str:
    values = shorten(format_point(point.values, findings.short), MAX_LABEL)
    name = values or (point.runs[0].id if findings.kind == "runs" else findings.name)
    if findings.kind == "runs" and len(findings.points) == len(findings.runs) and values:
        name = f"{point.runs[0].id[:12]}  {values}"
    if point.value is None:
        return f"{name} · {', '.join(dict.fromkeys(run.state for run in point.runs))}"
    return f"{name} · {format_number(point.value)}"


def _make_tip(point: Point, band: Band, metric: str, findings: Findings) -> str:
    last = next((value for value in reversed(band.mean) if math.isfinite(value)), None)
    runs = ", ".join(run.id for run in band.runs)
    name = format_point(point.values, findings.short) or findings.name
    return f"{name}\n{metric} {format_number(last)} at step {band.steps[-1]}\n{runs}"


def _make_caption(
    findings: Findings, highlighted: list[Point], grey: list[Point], metrics: list[str], cut: set[str]
) -> str:
    sentences = []
    if findings.has_seeds:
        noun = findings.repeat_noun
        sentences.append(f"Each line is the mean over the {noun}s of a point, its band the range of the {noun}s.")
    if grey:
        sentences.append(
            f"The best {len(highlighted)} of {len(highlighted) + len(grey)} points are highlighted, the others are grey."
        )
        if len(grey) > MAX_GREY:
            sentences.append(f"One in {math.ceil(len(grey) / MAX_GREY)} grey curves is drawn.")
    sentences.append(f"The number in the legend is {findings.value_name}.")
    width = max((run.series[m].width for run in findings.runs for m in metrics if m in run.series), default=1)
    sentences += [f"Long curves show means of up to {width} neighbouring points."] if width > 1 else []
    return " ".join([*sentences, *sorted(cut - {""})])


def _make_alt(findings: Findings, highlighted: list[Point], metrics: list[str]) -> str:
    best = highlighted[0]
    leader = f"; {_make_label(best, findings)} is best" if best.value is not None else ""
    return f"Curves of {' and '.join(metrics)} over the steps for {len(findings.points)} points{leader}"
