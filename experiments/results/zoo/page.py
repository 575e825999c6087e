"""The zoo as a Markdown page: a table per family of experiments, and a section with a curve per row."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from experiments.core.format import format_duration, format_number
from experiments.results.zoo.figure import alt_text
from experiments.results.zoo.record import MeasuredRecord, Refusal, round_value
from experiments.results.zoo.rows import OTHER, Row

HEAD = """# Zoo

This page lists every experiment with its source, the published result and the result measured with Lathe. `lathe zoo --run`
measures the experiments and writes the page from the headers of `conf/experiment/` and the records beside it. Do not edit the
page by hand; `lathe zoo --check` reports differences.

*Measured* is the mean and the standard deviation over the seeds. *Expected* is the range that the header gives for this mean. If
a budget shortened a run, the table shows its steps, and the result is not compared with the expected range. *Cost* is the time
and the CPU time (CPU s) of one run; compare the CPU time if other processes were running. The section of each row has the
source, seeds, machine and code, and a learning curve with the mean and the range over the seeds.

A result is that of the weights that a run delivers: its best checkpoint, if the experiment selects one. *Weights of the last
step* marks results from before this rule whose run delivered other weights; `lathe zoo --run NAME` measures them again.
"""
COLUMNS = ("experiment", "data", "metric", "published", "expected", "measured", "cost")


@dataclass(frozen=True)
class RowStatus:
    """A row with its record."""

    row: Row
    known: MeasuredRecord | Refusal | None

    @property
    def record(self) -> MeasuredRecord | None:
        return self.known if isinstance(self.known, MeasuredRecord) else None

    @property
    def is_outside(self) -> bool:
        """True if the mean of a complete run is outside of the range in its header."""
        record, expected = self.record, self.row.expected
        if record is None or expected is None or not record.is_complete or record.overrides:
            return False
        return record.metric == self.row.metric and not expected[0] <= round_value(record.mean) <= expected[1]

    @property
    def remark(self) -> str:
        """Why there is no measurement; "" if there is one."""
        if isinstance(self.known, Refusal):
            return f"not measured: {self.known.refused}"
        return (
            "" if self.known else "not measured" if self.row.metric else "not measured: no Measure line in its header"
        )


def make_page(statuses: Sequence[RowStatus], figures: str) -> str:
    """The whole page.

    Args:
        statuses: of all rows.
        figures: the folder of the curves, as in the links of the page.
    """
    families = sorted({one.row.family for one in statuses}, key=lambda name: (name == OTHER, name.lower()))
    sections = []
    for family in families:
        own = [one for one in statuses if one.row.family == family]
        sections.append("\n".join([f"## {_text(_sentence(family))}\n", *_table(own)]))
        sections += [_entry(one, figures) for one in own]
    return "\n".join([HEAD, *(f"{section}\n" for section in sections)]).rstrip("\n") + "\n"


def _table(statuses: Sequence[RowStatus]) -> list[str]:
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for one in statuses:
        cells = (
            f"[{one.row.name}](#{_anchor(one.row.name)})", f"`{one.row.data}`", f"`{one.row.metric}`" if one.row.metric else "",
            _text(one.row.published), expected_text(one.row), measured_text(one) or _text(one.remark), cost_text(one.record),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return lines


def expected_text(row: Row) -> str:
    """The expected range of the mean."""
    return f"{row.expected[0]:g} to {row.expected[1]:g}" if row.expected else ""


def measured_text(status: RowStatus) -> str:
    """The mean and standard deviation with remarks; "" without a measurement."""
    record = status.record
    if record is None:
        return ""
    parts = [
        format_number(record.mean) if record.spread is None else f"{format_number(record.mean)} ± {record.spread:.2g}"
    ]
    if not record.is_complete:
        parts.append(f"after {record.steps:,} of {record.steps_in_all:,} steps")
    if len(record.seeds) == 1:
        parts.append("(one seed)")
    if record.overrides:
        parts.append(f"with {shlex.join(record.overrides)}")
    if status.is_outside:
        parts.append("(**not as expected**)")
    if record.metric != status.row.metric:
        parts.append(f"({record.metric})")
    if record.is_outdated:
        parts.append("(weights of the last step)")
    return " ".join(parts)


def cost_text(record: MeasuredRecord | None) -> str:
    """Time and CPU time of one run."""
    if record is None:
        return ""
    cpu_s = fmean(record.cpu_s)
    return f"{format_duration(fmean(record.wall_s))}, {cpu_s:,.{1 if cpu_s < 10 else 0}f} CPU s"


def _entry(status: RowStatus, figures: str) -> str:
    row, record = status.row, status.record
    question = row.facts.get("Question")
    lines = [f"### {row.name}", "", *([_text(_sentence(question)), ""] if question else [])]
    facts = {
        "Source": row.facts.get("Source", ""),
        "Published": row.published,
        "Expected": expected_text(row) if row.overrides else row.facts.get("Expect", ""),  # of all rows
    }
    lines += [f"- {label}: {_text(text)}" for label, text in facts.items() if text]
    lines += [f"- {line}" for line in (_record_lines(status, record) if record else [_text(_sentence(status.remark))])]
    changes = [*record.overrides, *record.shorter] if record else []
    lines += ["", "```sh", " ".join([row.command, *map(shlex.quote, changes)]), "```"]
    if record is not None:
        lines += ["", f"![{alt_text(record)}]({figures}/{row.name}.svg)"]
    return "\n".join(lines)


def _record_lines(status: RowStatus, record: MeasuredRecord) -> Iterable[str]:
    seeds = ", ".join(f"{value:g}" for value in record.values)
    which = f"seeds {', '.join(map(str, record.seeds))}" if len(record.seeds) > 1 else f"seed {record.seeds[0]}"
    yield f"Measured: `{record.metric}` {measured_text(status)}; {seeds} with {which}"
    beside = f", {record.side_by_side} runs in parallel" if record.side_by_side > 1 else ""
    threads = f"{record.threads} thread{'s' if record.threads > 1 else ''}"
    devices = f"{record.devices} x {record.device}" if record.devices > 1 else record.device
    code = "no commit" if record.revision is None else record.revision[:10]
    yield (
        f"Cost: {record.steps:,} steps in {cost_text(record)} ({devices}, {threads}{beside}); torch {record.torch}, code {code}"
        f"{' with changes' if record.dirty else ''}, {record.date}"
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _anchor(name: str) -> str:
    """The anchor of a heading, as GitHub generates it."""
    return name.lower()


def _text(text: str) -> str:
    """Text with Markdown escaped, except between backticks."""
    parts = text.split("`")
    is_closed = len(parts) % 2 == 1
    return "`".join(
        part if number % 2 and is_closed else re.sub(r"([<*\[\]\\])", r"\\\1", part)
        for number, part in enumerate(parts)
    )


def find_problems(text: str, page_file: Path, statuses: Sequence[RowStatus], folder: Path) -> list[str]:
    """Every difference between the page on disk and the headers and records."""
    problems = []
    if not page_file.is_file() or page_file.read_text(encoding="utf-8") != text:
        problems.append(f"{page_file} differs from the headers and records; write it with `lathe zoo --write`")
    rows = {one.row.name for one in statuses}
    for one in statuses:
        if one.record and not (folder / f"{one.row.name}.svg").is_file():
            problems.append(f"{folder / one.row.name}.svg is missing; draw it with `lathe zoo --write`")
    for path in sorted(folder.glob("*.yaml")):
        if path.stem not in rows:
            problems.append(f"{path} belongs to no experiment; remove it and {path.stem}.svg")
    return problems
