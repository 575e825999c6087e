"""The learning curve of a row: the mean over its seeds, and the band from the lowest to the highest."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from experiments.core import figures as look
from experiments.core.atomic import write_text
from experiments.results.zoo.record import MeasuredRecord

WIDTH_IN, HEIGHT_IN = 5.6, 2.5


def draw(record: MeasuredRecord, path: Path) -> None:
    """Write the curve as an SVG that follows the light or dark mode of the viewer.

    Raises:
        OSError: it cannot be written.
    """
    steps, seeds = record.curve_steps, len(record.seeds)
    values = list(zip(*record.curves, strict=True))
    with look.new_figure(1, 1, HEIGHT_IN, WIDTH_IN) as (figure, (axis,)):
        colour = look.SERIES[0]
        if seeds > 1:
            lows, highs = [min(points) for points in values], [max(points) for points in values]
            axis.fill_between(steps, lows, highs, color=colour, alpha=0.22, linewidth=0)
        marker = "o" if len(steps) < 12 else ""
        axis.plot(
            steps,
            [fmean(points) for points in values],
            color=colour,
            linewidth=1.8,
            marker=marker,
            markersize=3.6,
        )
        look.scale_axis(axis, [value for points in values for value in points])
        axis.set_title(record.curve_metric)
        axis.set_xlabel("step")
        drawn = look.render(
            figure, record.row, title=record.row, caption="", alt=alt_text(record), tips=look.Tooltips()
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, look.standalone_svg(drawn.svg, ""))


def alt_text(record: MeasuredRecord) -> str:
    """The alternative text of the curve."""
    seeds = f", mean and range of {len(record.seeds)} seeds" if len(record.seeds) > 1 else ""
    return f"{record.curve_metric} by step{seeds}"
