"""The zoo as a page of Markdown: a table for each family of experiments, and an entry with its curve for each row."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from experiments.core.format import format_duration, format_number
from experiments.results.zoo.figure import alt
from experiments.results.zoo.record import MeasuredRecord, Refusal, rounded
from experiments.results.zoo.rows import OTHER, Row

HEAD = """# Zoo

Every experiment: where it comes from, what was published, and what it measures here. `lathe zoo --run` measured and wrote it.
Nothing on this page is written by hand, and `lathe zoo --check` finds out where it differs from the headers of `conf/experiment/`
and the records beside it.

*Measured* is the mean over the seeds and their standard deviation; *expected* is the range that a header gives for that mean.
A run that a budget made shorter says how far it went, and is not held against what is expected of a whole one. *Cost* is of one
run: time, and seconds of a core (CPU s), which tell more than time where other work ran beside it. The entry of each row tells
its source, seeds, machine and code, and shows its learning curve: the mean, and a band from the lowest seed to the highest.
"""
COLUMNS = ("experiment", "data", "metric", "published", "expected", "measured", "cost")


@dataclass(frozen=True)
class RowStatus:
    """A row, and what is known of it."""

    row: Row
    known: MeasuredRecord | Refusal | None

    @property
    def record(self) -> MeasuredRecord | None:
        return self.known if isinstance(self.known, MeasuredRecord) else None

    @property
    def is_outside(self) -> bool:
        """Whether a whole run's mean is not in the range that its header expects."""
        record, expected = self.record, self.row.expected
        if record is None or expected is None or not record.is_whole or record.overrides:
            return False
        return record.metric == self.row.metric and not expected[0] <= rounded(record.mean) <= expected[1]

    @property
    def remark(self) -> str:
        """Why there is no measurement; "" where there is one."""
        if isinstance(self.known, Refusal):
            return f"not measured: {self.known.refused}"
        return (
            "" if self.known else "not measured" if self.row.metric else "not measured: no Measure line in its header"
        )


def page(standings: Sequence[RowStatus], figures: str) -> str:
    """The whole page.

    Args:
        standings: of all rows.
        figures: the folder of the curves, as the page's links name it.
    """
    families = sorted({one.row.family for one in standings}, key=lambda name: (name == OTHER, name.lower()))
    sections = []
    for family in families:
        own = [one for one in standings if one.row.family == family]
        sections.append("\n".join([f"## {_text(_sentence(family))}\n", *_table(own)]))
        sections += [_entry(one, figures) for one in own]
    return "\n".join([HEAD, *(f"{section}\n" for section in sections)]).rstrip("\n") + "\n"


def _table(standings: Sequence[RowStatus]) -> list[str]:
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for one in standings:
        cells = (
            f"[{one.row.name}](#{_anchor(one.row.name)})", f"`{one.row.data}`", f"`{one.row.metric}`" if one.row.metric else "",
            _text(one.row.published), expected_text(one.row), measured_text(one) or _text(one.remark), cost_text(one.record),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return lines


def expected_text(row: Row) -> str:
    """The range that is expected of the mean."""
    return f"{row.expected[0]:g} to {row.expected[1]:g}" if row.expected else ""


def measured_text(standing: RowStatus) -> str:
    """Mean and spread, and what has to be known of them; "" where nothing was measured."""
    record = standing.record
    if record is None:
        return ""
    words = [
        format_number(record.mean) if record.spread is None else f"{format_number(record.mean)} ± {record.spread:.2g}"
    ]
    if not record.is_whole:
        words.append(f"after {record.steps:,} of {record.steps_in_all:,} steps")
    if len(record.seeds) == 1:
        words.append("(one seed)")
    if record.overrides:
        words.append(f"with {shlex.join(record.overrides)}")
    if standing.is_outside:
        words.append("(**not as expected**)")
    if record.metric != standing.row.metric:
        words.append(f"({record.metric})")
    return " ".join(words)


def cost_text(record: MeasuredRecord | None) -> str:
    """Time and core-seconds of one run."""
    if record is None:
        return ""
    cpu_s = fmean(record.cpu_s)
    return f"{format_duration(fmean(record.wall_s))}, {cpu_s:,.{1 if cpu_s < 10 else 0}f} CPU s"


def _entry(standing: RowStatus, figures: str) -> str:
    row, record = standing.row, standing.record
    question = row.facts.get("Question")
    lines = [f"### {row.name}", "", *([_text(_sentence(question)), ""] if question else [])]
    told = {
        "Source": row.facts.get("Source", ""),
        "Published": row.published,
        "Expected": expected_text(row) if row.overrides else row.facts.get("Expect", ""),  # which tells of all its rows
    }
    lines += [f"- {word}: {_text(text)}" for word, text in told.items() if text]
    lines += [f"- {line}" for line in (_of_record(standing, record) if record else [_text(_sentence(standing.remark))])]
    changes = [*record.overrides, *record.shorter] if record else []
    lines += ["", "```sh", " ".join([row.command, *map(shlex.quote, changes)]), "```"]
    if record is not None:
        lines += ["", f"![{alt(record)}]({figures}/{row.name}.svg)"]
    return "\n".join(lines)


def _of_record(standing: RowStatus, record: MeasuredRecord) -> Iterable[str]:
    seeds = ", ".join(f"{value:g}" for value in record.values)
    which = f"seeds {', '.join(map(str, record.seeds))}" if len(record.seeds) > 1 else f"seed {record.seeds[0]}"
    yield f"Measured: `{record.metric}` {measured_text(standing)}; {seeds} of {which}"
    beside = f", {record.side_by_side} runs side by side" if record.side_by_side > 1 else ""
    threads = f"{record.threads} thread{'s' if record.threads > 1 else ''}"
    devices = f"{record.devices} x {record.device}" if record.devices > 1 else record.device
    code = "no commit" if record.revision is None else record.revision[:10]
    yield (
        f"Cost: {record.steps:,} steps in {cost_text(record)} ({devices}, {threads}{beside}); torch {record.torch}, code {code}"
        f"{' and changes to it' if record.dirty else ''}, {record.date}"
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _anchor(name: str) -> str:
    """Of a heading, as GitHub makes it."""
    return name.lower()


def _text(text: str) -> str:
    """Plain words as Markdown; what stands between backticks stays as it is."""
    parts = text.split("`")
    is_closed = len(parts) % 2 == 1
    return "`".join(
        part if number % 2 and is_closed else re.sub(r"([<*\[\]\\])", r"\\\1", part)
        for number, part in enumerate(parts)
    )


def problems_of(text: str, page_file: Path, standings: Sequence[RowStatus], folder: Path) -> list[str]:
    """What of the page on disk is not what headers and records give."""
    found = []
    if not page_file.is_file() or page_file.read_text(encoding="utf-8") != text:
        found.append(f"{page_file} is not what the headers and the records give; `lathe zoo --write` writes it")
    rows = {one.row.name for one in standings}
    for one in standings:
        if one.record and not (folder / f"{one.row.name}.svg").is_file():
            found.append(f"{folder / one.row.name}.svg is missing; `lathe zoo --write` draws it")
    for path in sorted(folder.glob("*.yaml")):
        if path.stem not in rows:
            found.append(f"{path} is of no experiment that is there; remove it, and {path.stem}.svg with it")
    return found
