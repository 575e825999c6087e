"""The tables of the differences between two runs, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from experiments.results.compare.differences import ABSENT, Difference, Differences
from experiments.results.compare.metric_rows import MetricRow
from experiments.run.metric_comparison import Divergence

MAX_FILES = 20
BEST_NOTE = (
    "final: the last value. best: that of the weights that the run delivers; `lathe ls` calls it delivered/val/..."
)


def differences_table(differing: Differences) -> Table:
    """All differences, one section per group."""
    table = Table("", "", "A", "B", title="differences", title_justify="left")
    for column in table.columns:
        column.overflow = "fold"
    for group, rows in differing.groups.items():
        for number, row in enumerate(rows):
            table.add_row("" if number else f"[bold]{group}[/]", *map(escape, (row.key, row.one, row.other)))
        table.add_section()
    return table


def files_text(files: Sequence[str]) -> str:
    """The files that differ between two states of the code, up to a limit."""
    more = [f"and {len(files) - MAX_FILES - 1} more files"] if len(files) > MAX_FILES + 1 else []
    return "\n  ".join(["code: " + files[0], *files[1 : MAX_FILES + 1], *more])


def uncounted_text(rows: Sequence[Difference]) -> str:
    """One line with the differences that do not affect the result."""
    return "different, but without effect on the result: " + ", ".join(row.key for row in rows)


def metrics_table(rows: Sequence[MetricRow]) -> Table:
    """How metrics differ, with the final and the best value of both runs."""
    values = [(*row.final, *row.best) for row in rows]
    return _make_table([row.curve for row in rows], ("final A", "final B", "best A", "best B"), values)


def streams_table(curves: Sequence[Divergence]) -> Table:
    """How metrics differ, with the values at the last step that both runs have."""
    return _make_table(curves, ("last in A", "last in B"), [curve.last or (None, None) for curve in curves])


def _make_table(
    curves: Sequence[Divergence], headings: Sequence[str], values: Sequence[Sequence[float | None]]
) -> Table:
    """The first step at which each metric differs, the largest relative distance, and some values."""
    table = Table(
        "metric", "differs from step", "largest distance", *headings, "steps", title="metrics", title_justify="left"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for curve, numbers in zip(curves, values, strict=True):
        step = ABSENT if curve.first_step is None else str(curve.first_step)
        distance = f"{curve.largest:.2g}" if curve.num_common else ABSENT
        cells = [ABSENT if value is None else f"{value:.6g}" for value in numbers]
        table.add_row(escape(curve.name), step, distance, *cells, _steps(curve))
    return table


def _steps(one: Divergence) -> str:
    """The number of common steps, and of steps that only one of the two has."""
    alone = [f"{count:,} only in {which}" for count, which in zip(one.only_in, "AB", strict=True) if count]
    return ", ".join([f"{one.num_common:,}", *alone])
