"""The metric against each parameter of a sweep, one panel per parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from experiments.core import figures
from experiments.core.format import format_number, format_point
from experiments.results.report.axis_scale import MISSING_POSITION, Scale, make_scale, shorten, thin_ticks
from experiments.results.report.findings import Findings, ReportRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3
MAX_PANELS = 12
MAX_TIPS = 1500
"""Most marks with a tooltip in a figure; each tooltip adds about 400 bytes to the page."""
CHAR_WIDTH, LINE_HEIGHT = 0.036, 0.07
"""Of a label, as a part of an axis in the narrowest panel."""
MAX_AXIS_CHARS = 46
"""Characters that fit below an axis; longer labels are rotated."""


def draw(findings: Findings) -> figures.RenderedFigure | None:
    """Draw the figure; None if no parameter varies or no run has a result."""
    keys, runs = findings.varying[:MAX_PANELS], [run for run in findings.runs if run.is_measured]
    if not keys or not runs:
        return None
    columns = 2 if len(keys) in (1, 2, 4) else COLUMNS
    rows = math.ceil(len(keys) / columns)
    tips = figures.Tooltips() if len(runs) * len(keys) <= MAX_TIPS else None
    with figures.new_figure(rows, columns, 0.35 + 2.75 * rows, sharey=True) as (figure, axes):
        for axis, key in zip(axes, keys, strict=False):
            _draw_panel(axis, key, runs, findings, tips)
        for axis in axes[len(keys) :]:
            axis.remove()
        cut = figures.scale_axis(axes[0], [run.value for run in runs if run.value is not None])
        for row in range(rows):
            axes[row * columns].set_ylabel(findings.value_name)
        return figures.render(
            figure, "parameters", title="Result by parameter", caption=_make_caption(findings, runs, cut),
            alt=f"{findings.value_name} of each trial against {', '.join(findings.short[key] for key in keys)}",
            tips=tips or figures.Tooltips(),
        )  # fmt: skip


def _draw_panel(
    axis: Axes, key: str, runs: Sequence[ReportRun], findings: Findings, tips: figures.Tooltips | None
) -> None:
    having = [run for run in runs if key in run.values]
    # In the order of the search space; runs are ordered by result.
    ordered = sorted(having, key=lambda run: run.point)
    scale = make_scale(run.values[key] for run in ordered)
    best = findings.best_run
    positions = {run.id: scale.locate(run.values[key]) if key in run.values else MISSING_POSITION for run in runs}
    _draw_means(axis, scale, positions, runs)
    if tips is None:
        axis.scatter(
            [positions[run.id] for run in runs],
            [run.value or 0.0 for run in runs],
            s=9,
            color=figures.SERIES[0],
            alpha=0.6,
        )
        runs = [run for run in runs if run is best]
    for index, run in enumerate(runs):
        shift = (index / max(1, len(runs) - 1) - 0.5) * 0.03  # keeps runs with the same value apart
        mark = _draw_mark(axis, positions[run.id] + shift, run, is_best=run is best)
        if tips is not None:
            tips.mark(mark, _make_tip(run, findings), run.id)
    axis.set_title(shorten(findings.short[key], 34))
    axis.set_xlim(-0.28 if len(having) < len(runs) else -0.1, 1.1)
    _set_ticks(axis, scale, is_missing=len(having) < len(runs))


def _draw_mark(axis: Axes, x: float, run: ReportRun, *, is_best: bool) -> Any:
    is_whole = run.state == "finished"
    colour = figures.BEST if is_best else figures.SERIES[0]
    (mark,) = axis.plot(
        [x], [run.value or 0.0], linestyle="none", marker="D" if is_best else "o" if is_whole else "^",
        markersize=7.0 if is_best else 5.0, markerfacecolor=colour if is_whole else "none", markeredgecolor=colour,
        markeredgewidth=0.9, alpha=1.0 if is_best else 0.72, zorder=4 if is_best else 3,
    )  # fmt: skip
    return mark


def _draw_means(axis: Axes, scale: Scale, positions: dict[str, float], runs: Sequence[ReportRun]) -> None:
    """The mean of all trials with the same value: joined where values are numbers, a bar where they are words."""
    values: dict[float, list[float]] = {}
    for run in runs:
        if run.state == "finished" and run.value is not None:
            values.setdefault(positions[run.id], []).append(run.value)
    if scale.kind != "categorical" and 2 * len(values) > len(positions):  # few values occur twice
        return
    means = [(at, fmean(some)) for at, some in sorted(values.items())]
    for at, mean in means:
        axis.plot(
            [at - 0.05, at + 0.05], [mean, mean], color=figures.INK, linewidth=2.0, zorder=2.5, solid_capstyle="round"
        )
    if scale.kind != "categorical":
        joined = [(at, mean) for at, mean in means if at != MISSING_POSITION]
        axis.plot([at for at, _ in joined], [mean for _, mean in joined], color=figures.MUTED, linewidth=0.9, zorder=2)


def _set_ticks(axis: Axes, scale: Scale, *, is_missing: bool) -> None:
    marks = [*([(MISSING_POSITION, "not set")] if is_missing else []), *scale.ticks]
    longest = max(len(text) for _, text in marks)
    is_long = longest * len(marks) > MAX_AXIS_CHARS or (is_missing and longest > len("not set") + 1)
    if scale.kind != "categorical":
        marks = thin_ticks(marks, LINE_HEIGHT) if is_long else thin_ticks(marks, 0.02, CHAR_WIDTH)
    axis.set_xticks(
        [at for at, _ in marks], [text for _, text in marks],
        rotation=28 if is_long else 0, ha="right" if is_long else "center", rotation_mode="anchor",
    )  # fmt: skip
    axis.set_xlabel("log scale" if scale.kind == "log" else "", fontsize=7.5, color=figures.MUTED, labelpad=1.5)


def _make_tip(run: ReportRun, findings: Findings) -> str:
    state = "" if run.state == "finished" else f" ({run.state})"
    seed = f" seed={run.seed}" if findings.has_seeds else ""
    return f"{format_point(run.values, findings.short)}{seed}\n{findings.value_name} {format_number(run.value)}{state}\n{run.id}"


def _make_caption(findings: Findings, runs: Sequence[ReportRun], cut: str) -> str:
    sentences = ["Each mark is a trial, each bar the mean of the finished trials with that value."]
    sentences += ["The diamond is the best trial."] if findings.best_run is not None else []
    sentences += (
        ["Hollow triangles are trials that did not finish."] if any(run.state != "finished" for run in runs) else []
    )
    if (missed := len(findings.runs) - len(runs)) > 0:
        sentences.append(
            f"{missed} {'trial has' if missed == 1 else 'trials have'} no result and {'is' if missed == 1 else 'are'} not shown."
        )
    if len(findings.varying) > MAX_PANELS:
        sentences.append(f"{len(findings.varying) - MAX_PANELS} further parameters are only in the table.")
    return " ".join([*sentences, cut]).rstrip()
