"""The tables of what two runs differ by, as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from experiments.results.compare.differences import Difference, Differences
from experiments.run.metric_comparison import Divergence

MOST_FILES = 20


def differences_table(found: Differences) -> Table:
    """Everything that differs, a section a group."""
    table = Table("", "", "A", "B", title="what differs", title_justify="left")
    for column in table.columns:
        column.overflow = "fold"
    for group, rows in found.groups.items():
        for number, row in enumerate(rows):
            table.add_row("" if number else f"[bold]{group}[/]", *map(escape, (row.key, row.one, row.other)))
        table.add_section()
    return table


def files_text(files: Sequence[str]) -> str:
    """The files that two states of the code differ by, not more than a screen of them."""
    more = [f"and {len(files) - MOST_FILES - 1} files more"] if len(files) > MOST_FILES + 1 else []
    return "\n  ".join(["code: " + files[0], *files[1 : MOST_FILES + 1], *more])


def uncounted(rows: Sequence[Difference]) -> str:
    """One line of what differs and determines no result."""
    return "not counted, as it determines no result: " + ", ".join(row.key for row in rows)


def streams_table(partings: Sequence[Divergence]) -> Table:
    """How metrics differ: where they part, by how much of the value at most, and the last values that both have."""
    names = ("metric", "parts at step", "largest distance", "last in A", "last in B", "steps")
    table = Table(*names, title="metrics", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for one in partings:
        last = [f"{value:.6g}" for value in one.last] if one.last else ["-", "-"]
        step = "-" if one.first_step is None else str(one.first_step)
        far = f"{one.largest:.2g}" if one.num_common else "-"
        table.add_row(escape(one.name), step, far, *last, _steps(one))
    return table


def _steps(one: Divergence) -> str:
    """How many steps both have, and how many one alone."""
    alone = [f"{count:,} only in {which}" for count, which in zip(one.only_in, "AB", strict=True) if count]
    return ", ".join([f"{one.num_common:,}", *alone])
