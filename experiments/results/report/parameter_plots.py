"""The metric against each parameter of a sweep, a panel a parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from experiments.core import figures
from experiments.core.format import number, point_text
from experiments.results.report.axis_scale import MISSING_POSITION, Scale, make_scale, shorten
from experiments.results.report.findings import Findings, ReportRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3
MAX_PANELS = 12
MAX_TIPS = 1500
"""Marks in a figure that one can point at; each costs a page some 400 bytes."""
MAX_AXIS_CHARS = 46
"""Characters for which an axis has room; longer labels are turned."""


def draw(findings: Findings) -> figures.Picture | None:
    """The picture; None where nothing varies or nothing was measured."""
    keys, runs = findings.varying[:MAX_PANELS], [run for run in findings.runs if run.is_measured]
    if not keys or not runs:
        return None
    columns = 2 if len(keys) in (1, 2, 4) else COLUMNS
    rows = math.ceil(len(keys) / columns)
    tips = figures.Tips() if len(runs) * len(keys) <= MAX_TIPS else None
    with figures.drawing(rows, columns, 0.35 + 2.75 * rows, sharey=True) as (figure, axes):
        for axis, key in zip(axes, keys, strict=False):
            _draw_panel(axis, key, runs, findings, tips)
        for axis in axes[len(keys) :]:
            axis.remove()
        cut = figures.fit(axes[0], [run.value for run in runs if run.value is not None])
        for row in range(rows):
            axes[row * columns].set_ylabel(findings.metric)
        return figures.picture(
            figure, "parameters", title="Result by parameter", caption=_make_caption(findings, runs, cut),
            alt=f"{findings.metric} of each trial against {', '.join(findings.short[key] for key in keys)}",
            tips=tips or figures.Tips(),
        )  # fmt: skip


def _draw_panel(axis: Axes, key: str, runs: Sequence[ReportRun], findings: Findings, tips: figures.Tips | None) -> None:
    having = [run for run in runs if key in run.values]
    # In the order of the space, which a list of runs has not.
    ordered = sorted(having, key=lambda run: run.point)
    scale = make_scale(run.values[key] for run in ordered)
    best = findings.best_run
    places = {run.id: scale.at(run.values[key]) if key in run.values else MISSING_POSITION for run in runs}
    _draw_means(axis, scale, places, runs)
    if tips is None:
        axis.scatter(
            [places[run.id] for run in runs],
            [run.value or 0.0 for run in runs],
            s=9,
            color=figures.SERIES[0],
            alpha=0.6,
        )
        runs = [run for run in runs if run is best]
    for index, run in enumerate(runs):
        shift = (index / max(1, len(runs) - 1) - 0.5) * 0.03  # apart, where many have the same value
        mark = _draw_mark(axis, places[run.id] + shift, run, is_best=run is best)
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


def _draw_means(axis: Axes, scale: Scale, places: dict[str, float], runs: Sequence[ReportRun]) -> None:
    """The mean of all trials with the same value: joined where values are numbers, a bar where they are words."""
    values: dict[float, list[float]] = {}
    for run in runs:
        if run.state == "finished" and run.value is not None:
            values.setdefault(places[run.id], []).append(run.value)
    if scale.kind != "words" and 2 * len(values) > len(places):  # hardly a value comes twice
        return
    means = [(at, fmean(some)) for at, some in sorted(values.items())]
    for at, mean in means:
        axis.plot(
            [at - 0.05, at + 0.05], [mean, mean], color=figures.INK, linewidth=2.0, zorder=2.5, solid_capstyle="round"
        )
    if scale.kind != "words":
        joined = [(at, mean) for at, mean in means if at != MISSING_POSITION]
        axis.plot([at for at, _ in joined], [mean for _, mean in joined], color=figures.MUTED, linewidth=0.9, zorder=2)


def _set_ticks(axis: Axes, scale: Scale, *, is_missing: bool) -> None:
    marks = [*([(MISSING_POSITION, "not set")] if is_missing else []), *scale.ticks]
    longest = max(len(text) for _, text in marks)
    is_long = longest * len(marks) > MAX_AXIS_CHARS or (is_missing and longest > len("not set") + 1)
    axis.set_xticks(
        [at for at, _ in marks], [text for _, text in marks],
        rotation=28 if is_long else 0, ha="right" if is_long else "center", rotation_mode="anchor",
    )  # fmt: skip
    axis.set_xlabel("log scale" if scale.kind == "logarithms" else "", fontsize=7.5, color=figures.MUTED, labelpad=1.5)


def _make_tip(run: ReportRun, findings: Findings) -> str:
    state = "" if run.state == "finished" else f" ({run.state})"
    seed = f" seed={run.seed}" if findings.has_seeds else ""
    return f"{point_text(run.values, findings.short)}{seed}\n{findings.metric} {number(run.value)}{state}\n{run.id}"


def _make_caption(findings: Findings, runs: Sequence[ReportRun], cut: str) -> str:
    words = ["Each mark is a trial, a bar the mean of the finished ones with that value."]
    words += ["The diamond is the best trial."] if findings.best_run is not None else []
    words += ["Hollow triangles did not come to their end."] if any(run.state != "finished" for run in runs) else []
    if (missed := len(findings.runs) - len(runs)) > 0:
        words.append(
            f"{missed} {'trial has' if missed == 1 else 'trials have'} no result and {'is' if missed == 1 else 'are'} not shown."
        )
    if len(findings.varying) > MAX_PANELS:
        words.append(f"{len(findings.varying) - MAX_PANELS} further parameters stand in the table alone.")
    return " ".join([*words, cut]).rstrip()
