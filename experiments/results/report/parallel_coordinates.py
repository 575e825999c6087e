"""Parallel coordinates: one axis per parameter, one line per trial, and the metric on the last axis."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from experiments.core import figures
from experiments.core.format import format_number, format_point
from experiments.results.report.axis_scale import (
    MISSING_POSITION,
    Scale,
    make_metric_scale,
    make_scale,
    shorten,
    thin_ticks,
)
from experiments.results.report.findings import Findings, ReportRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_AXES = 9
MAX_LINES, FEW_LINES = 300, 60
LINE_HEIGHT = 0.06
"""Smallest distance between two labels of an axis."""
SPREAD = 0.05
"""Distance between lines through the same value, so that each line stays visible."""


def draw(findings: Findings) -> figures.RenderedFigure | None:
    """Draw the figure; None if fewer than two parameters vary or fewer than two trials have a result."""
    keys = findings.varying[:MAX_AXES]
    runs = [run for run in findings.runs if run.is_measured]
    if len(keys) < 2 or len(runs) < 2:
        return None
    shown = runs[:: -(-len(runs) // MAX_LINES)]
    tips, width = figures.Tooltips(), 1.3 if len(shown) <= FEW_LINES else 0.8
    goal = make_metric_scale([run.value for run in runs if run.value is not None], findings.mode)
    with figures.new_figure(1, 1, 3.9) as (figure, (axis,)):
        scales = [
            make_scale(run.values[key] for run in sorted(runs, key=lambda run: run.point) if key in run.values)
            for key in keys
        ]
        for rank in reversed(range(len(shown))):  # the best are drawn last
            _draw_line(axis, shown[rank], rank / max(1, len(shown) - 1), width, keys, scales, goal, findings, tips)
        _draw_axes(axis, keys, [*scales, goal], findings)
        return figures.render(
            figure, "parallel", title="Parallel coordinates", caption=_make_caption(findings, shown, runs),
            alt=f"{len(shown)} trials as lines over {', '.join(findings.short[key] for key in keys)} to {findings.value_name}",
            tips=tips,
        )  # fmt: skip


def _draw_line(
    axis: Axes,
    run: ReportRun,
    rank: float,
    width: float,
    keys: Sequence[str],
    scales: Sequence[Scale],
    goal: Scale,
    findings: Findings,
    tips: figures.Tooltips,
) -> None:
    """Draw one trial; rank 0 is the best, rank 1 the worst."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    shift = (0.5 - rank) * SPREAD
    heights = [
        (scale.locate(run.values[key]) if key in run.values else MISSING_POSITION) + shift
        for key, scale in zip(keys, scales, strict=True)
    ]
    heights.append(goal.locate(run.value))
    knots, codes = [(0.0, heights[0])], [Path.MOVETO]
    for left, (before, after) in enumerate(pairwise(heights)):
        knots += [(left + 0.45, before), (left + 0.55, after), (left + 1.0, after)]
        codes += [Path.CURVE4] * 3
    is_best = run is findings.best_run
    colour = figures.BEST if is_best else figures.RANKS[min(4, int((1 - rank) * 5))]
    patch = PathPatch(
        Path(knots, codes), facecolor="none", edgecolor=colour, linewidth=2.6 if is_best else width,
        linestyle="-" if run.state == "finished" else (0, (4, 2)), zorder=6 if is_best else 2 + (1 - rank),
    )  # fmt: skip
    axis.add_patch(patch)
    tips.mark(
        patch,
        f"{format_point(run.values, findings.short)}\n{findings.value_name} {format_number(run.value)}\n{run.id}",
        run.id,
    )


def _draw_axes(axis: Axes, keys: Sequence[str], scales: Sequence[Scale], findings: Findings) -> None:
    """Draw the axes on top of the lines; the last axis shows the metric."""
    missing = [any(key not in run.values for run in findings.runs if run.is_measured) for key in keys]
    low = MISSING_POSITION if any(missing) else 0.0
    paper = {"boxstyle": "round,pad=0.18", "facecolor": figures.PAPER, "edgecolor": "none", "alpha": 0.86}
    for at, (scale, is_missing) in enumerate(zip(scales, [*missing, False], strict=True)):
        axis.plot([at, at], [(low if is_missing else 0.0) - 0.04, 1.04], color=figures.MUTED, linewidth=1.0, zorder=7)
        marks = [
            *(scale.ticks if scale.kind == "categorical" else thin_ticks(scale.ticks, LINE_HEIGHT)),
            *([(MISSING_POSITION, "not set")] if is_missing else []),
        ]
        for height, text in marks:
            axis.plot([at - 0.012, at + 0.012], [height, height], color=figures.MUTED, linewidth=1.0, zorder=7)
            axis.text(
                at + 0.025, height, text, fontsize=8.0, color=figures.INK, va="center", ha="left", zorder=8, bbox=paper
            )
    axis.set_xticks(
        range(len(scales)),
        [*(shorten(findings.short[key], max(8, 110 // len(scales))) for key in keys), findings.value_name],
    )
    axis.tick_params(axis="x", length=0, labelsize=9, labelcolor=figures.INK, top=False, pad=4)
    axis.get_xticklabels()[-1].set_fontweight("bold")
    axis.set_yticks([])
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.set_xlim(-0.12, len(keys) + 0.28)
    axis.set_ylim(low - 0.07, 1.07)


def _make_caption(findings: Findings, shown: Sequence[ReportRun], runs: Sequence[ReportRun]) -> str:
    sentences = ["Each line is a trial; better fifths have stronger colours."]
    sentences += ["The best trial is orange."] if findings.best_run is not None else []
    sentences += [f"{len(shown)} of {len(runs)} trials are drawn."] if len(shown) < len(runs) else []
    sentences += (
        ["Dashed lines are trials that did not finish."] if any(run.state != "finished" for run in shown) else []
    )
    if len(findings.varying) > MAX_AXES:
        sentences.append(f"Only the first {MAX_AXES} of {len(findings.varying)} parameters are drawn.")
    return " ".join(sentences)
