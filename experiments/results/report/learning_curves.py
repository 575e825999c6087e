"""The learning curves of a report: the mean over the seeds of a point, and the band between the lowest and the highest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from experiments.core import figures
from experiments.core.format import number, point_text
from experiments.results.report.axis_scale import shorten
from experiments.results.report.findings import Findings, Point, ReportRun, find_train_loss, rank_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_HIGHLIGHTED = len(figures.SERIES)
NUM_BEST = 5
"""Curves that stand out where there are more than `MAX_HIGHLIGHTED`."""
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
    """Whose it is."""


def compute_band(point: Point, metric: str) -> Band | None:
    """A metric of a point; None where no run of it has measured it.

    The mean is over the seeds that came to their end, else over all there are, at the steps that each of them has.
    """
    having = [run for run in point.runs if metric in run.series]
    runs = [run for run in having if run.state in ("finished", "pruned")] or having
    curves = [dict(run.series[metric].curve()) for run in runs]
    if not curves:
        return None
    shared = [step for step in curves[0] if all(step in curve for curve in curves)]
    if not shared:  # averaged to other steps: then one of them speaks
        runs, curves, shared = runs[:1], curves[:1], list(curves[0])
    values = [[curve[step] for curve in curves] for step in sorted(shared)]
    known = [all(map(math.isfinite, some)) for some in values]
    return Band(
        steps=sorted(shared),
        mean=[fmean(some) if good else math.nan for some, good in zip(values, known, strict=True)],
        low=[min(some) if good else math.nan for some, good in zip(values, known, strict=True)],
        high=[max(some) if good else math.nan for some, good in zip(values, known, strict=True)],
        runs=tuple(runs),
    )


def draw(findings: Findings) -> figures.Picture | None:
    """The curves of the metric and of the training's loss, side by side; None where nothing was measured."""
    metrics = list(dict.fromkeys([findings.metric, *filter(None, [find_train_loss(findings.runs)])]))
    having = [
        point for point in findings.points if any(metric in run.series for run in point.runs for metric in metrics)
    ]
    if not having:
        return None
    strong, grey = _split_points(having, findings.mode)
    tips = figures.Tips()
    height_in = 3.5 + 0.21 * math.ceil((len(strong) + bool(grey)) / 2)
    with figures.drawing(1, len(metrics), height_in) as (figure, axes):
        panels = [
            _draw_panel(axis, metric, strong, grey, findings, tips) for axis, metric in zip(axes, metrics, strict=True)
        ]
        handles = max((lines for lines, _ in panels), key=len)
        labels = [_make_label(point, findings) for point in strong]
        labels += [f"{len(grey)} other points"] if grey else []
        figure.legend(
            handles, labels, loc="outside lower left", ncols=2 if max(map(len, labels)) < MAX_LABEL else 1,
            handlelength=3.4, columnspacing=2.5, labelspacing=0.45,
        )  # fmt: skip
        return figures.picture(
            figure, "curves", title="Learning curves",
            caption=_make_caption(findings, strong, grey, metrics, {cut for _, cut in panels}),
            alt=_make_alt(findings, strong, metrics), tips=tips,
        )  # fmt: skip


def _split_points(points: Sequence[Point], mode: str) -> tuple[list[Point], list[Point]]:
    """Which curves stand out, and which are grey."""
    ordered = sorted(points, key=lambda point: rank_key(point.value, mode))
    if len(ordered) <= MAX_HIGHLIGHTED:
        return ordered, []
    return ordered[:NUM_BEST], ordered[NUM_BEST:]


def _draw_panel(
    axis: Axes, metric: str, strong: list[Point], grey: list[Point], findings: Findings, tips: figures.Tips
) -> tuple[list[Any], str]:
    """Draw one metric; what the legend shows, and what has to be told."""
    drawn: list[Band] = []
    others: list[Any] = []
    for point in grey[:: math.ceil(len(grey) / MAX_GREY) or 1]:
        if (found := compute_band(point, metric)) is not None:
            (line,) = axis.plot(
                found.steps,
                found.mean,
                color=figures.REST,
                linewidth=0.9,
                zorder=1.5,
                marker="." if len(found.steps) == 1 else "",
            )
            tips.mark(line, _make_tip(point, found, metric, findings), found.runs[0].id)
            drawn, others = [*drawn, found], [line]
    lines = []
    for index, point in enumerate(strong):
        found = compute_band(point, metric)
        lines.append(_draw_curve(axis, index, found, len(strong)))
        if found is not None:
            tips.mark(lines[-1], _make_tip(point, found, metric, findings), found.runs[0].id)
            drawn.append(found)
    axis.margins(x=0.02)
    cut = figures.fit(axis, [value for found in drawn for value in (*found.low, *found.high)])
    axis.set_title(metric)
    axis.set_xlabel("step")
    return lines + (others if grey else []), cut


def _draw_curve(axis: Axes, index: int, found: Band | None, count: int) -> Any:
    colour = figures.SERIES[index]
    steps, mean = (found.steps, found.mean) if found is not None else ([], [])
    if found is not None and len(found.runs) > 1:
        axis.fill_between(found.steps, found.low, found.high, color=colour, alpha=0.16, linewidth=0, zorder=2)
    every = max(1, len(steps) // 6)
    (line,) = axis.plot(
        steps, mean, color=colour, linestyle=figures.DASHES[index], linewidth=1.9 if index == 0 else 1.5,
        marker=figures.MARKERS[index], markersize=4.2, markeredgecolor=figures.PAPER, markeredgewidth=0.6,
        markevery=(index * every // max(1, count), every), zorder=3 + (count - index) / count,
    )  # fmt: skip
    return line


def _make_label(point: Point, findings: Findings) -> str:
    values = shorten(point_text(point.values, findings.short), MAX_LABEL)
    name = values or (point.runs[0].id if findings.kind == "runs" else findings.name)
    if findings.kind == "runs" and len(findings.points) == len(findings.runs) and values:
        name = f"{point.runs[0].id[:12]}  {values}"
    if point.value is None:
        return f"{name} · {', '.join(dict.fromkeys(run.state for run in point.runs))}"
    return f"{name} · {number(point.value)}"


def _make_tip(point: Point, found: Band, metric: str, findings: Findings) -> str:
    last = next((value for value in reversed(found.mean) if math.isfinite(value)), None)
    runs = ", ".join(run.id for run in found.runs)
    name = point_text(point.values, findings.short) or findings.name
    return f"{name}\n{metric} {number(last)} at step {found.steps[-1]}\n{runs}"


def _make_caption(findings: Findings, strong: list[Point], grey: list[Point], metrics: list[str], cut: set[str]) -> str:
    words = []
    if findings.has_seeds:
        words.append(
            "Each line is the mean over the seeds of a point, its band reaches from the lowest seed to the highest."
        )
    if grey:
        words.append(f"The best {len(strong)} of {len(strong) + len(grey)} points stand out, the rest is grey.")
        if len(grey) > MAX_GREY:
            words.append(f"Of these, one in {math.ceil(len(grey) / MAX_GREY)} is drawn.")
    words.append(
        f"The number in the legend is the {'largest' if findings.mode == 'max' else 'smallest'} {findings.metric}."
    )
    width = max((run.series[m].width for run in findings.runs for m in metrics if m in run.series), default=1)
    words += [f"Long curves are means of up to {width} neighbouring points."] if width > 1 else []
    return " ".join([*words, *sorted(cut - {""})])


def _make_alt(findings: Findings, strong: list[Point], metrics: list[str]) -> str:
    best = strong[0]
    told = f"; {_make_label(best, findings)} is ahead" if best.value is not None else ""
    return f"Curves of {' and '.join(metrics)} over the steps for {len(findings.points)} points{told}"
