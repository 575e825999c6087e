"""`lathe zoo`: shows what every experiment measured, measures it, writes the page of it, and checks that page."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from experiments.core.atomic import write_text
from experiments.core.console import make_console
from experiments.core.errors import InputError
from experiments.core.format import format_duration
from experiments.core.signals import signals_as_interrupt
from experiments.results.zoo.figure import draw
from experiments.results.zoo.measure import Failed, MeasureOptions, Refused, measure, missing_data
from experiments.results.zoo.page import RowStatus, cost_text, expected_text, measured_text, page, problems_of
from experiments.results.zoo.record import MeasuredRecord, Records, Refusal
from experiments.results.zoo.rows import Row, chosen, rows
from experiments.trial.trial import trial_id

SECONDS = {"s": 1, "m": 60, "h": 3600}
SEEDS = 3


def zoo(asked: argparse.Namespace) -> int:
    """Do what was asked.

    Raises:
        InputError: the words of the command, a header or a record is wrong.
    """
    names, terms = _read(asked)
    known = rows(terms.config_dirs)
    wanted = chosen(known, names)
    book = _Book(Path(asked.page), known, terms)
    if asked.run:
        return _run(book, wanted, bool(names))
    if asked.write:
        book.write(with_figures=True)
        _say(f"{book.page} tells of {len(known)} rows, {book.num_measured()} of them measured")
        return 0
    if asked.check:
        problems = book.problems()
        for problem in problems:
            print(problem, file=sys.stderr)
        return 1 if problems else 0
    make_console().print(_table(book, wanted))
    return 0


def _read(asked: argparse.Namespace) -> tuple[list[str], MeasureOptions]:
    """Names and terms of the command's words.

    Raises:
        InputError: with everything that is wrong with them.
    """
    names = [word for word in asked.words if "=" not in word and not word.startswith(("~", "+"))]
    overrides = [word for word in asked.words if word not in names]
    verbs = [f"--{verb}" for verb in ("run", "write", "check") if getattr(asked, verb)]
    problems = [f"{' and '.join(verbs)} are different things to do; say one of them"] if len(verbs) > 1 else []
    if not asked.run:
        given = {
            "--budget": asked.budget, "--seeds": asked.seeds, "--again": asked.again, **dict.fromkeys(overrides, True)
        }  # fmt: skip
        told = [word for word, value in given.items() if value]
        problems += [
            f"{word} is for measuring; write `lathe zoo --run {word}{' ...' if word in ('--budget', '--seeds') else ''}`"
            for word in told
        ]
        verb = "--write" if asked.write else "--check" if asked.check else ""
        problems += [f"NAME={name}: {verb} is of the whole page; leave the name out" for name in names if verb]
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", asked.budget or "0s")
    if match is None or (asked.budget and float(match[1]) == 0):
        problems.append(f"--budget {asked.budget} is no time of a run; write 90s, 10m or 1.5h")
    if asked.seeds is not None and asked.seeds < 1:
        problems.append(f"--seeds {asked.seeds} is no number of runs; write 1 or more")
    if Path(asked.page).suffix != ".md":  # else the folder of its records would have the page's own name
        problems.append(f"--page {asked.page} does not end in .md; write such as docs/zoo.md")
    if problems or match is None:
        raise InputError(problems, "`lathe zoo`")
    return names, MeasureOptions(
        seeds=SEEDS if asked.seeds is None else asked.seeds,
        budget_s=float(match[1]) * SECONDS[match[2]] if asked.budget else None,
        again=asked.again,
        overrides=tuple(overrides),
        config_dirs=tuple(asked.config_dir),
        trust=tuple(asked.trust),
    )


class _Book:
    """The page, and what it is made of."""

    def __init__(self, page: Path, known: Sequence[Row], terms: MeasureOptions) -> None:
        """
        Args:
            page: its file.
            known: all rows.
            terms: how rows are measured.
        """
        self.page, self.rows, self.terms = page.expanduser(), known, terms
        self.records = Records(self.page)

    def standing(self, row: Row) -> RowStatus:
        """What is known of a row."""
        return RowStatus(row, self.records.find(row.name))

    def has_changed(self, standing: RowStatus) -> bool:
        """Whether a row's configuration is not what was measured.

        Raises:
            InputError: it does not compose.
        """
        record = standing.record
        if record is None:
            return False
        try:
            return record.trial != trial_id(self.terms.compose(standing.row, *record.overrides).config)
        except InputError:
            if record.overrides:  # of then, which do not fit any more
                return True
            raise

    def has_measured(self, row: Row, trial: str) -> bool:
        """Whether measuring a row, whose configuration has this id, would tell nothing new."""
        record, terms = self.standing(row).record, self.terms
        return record is not None and not terms.again and record.stands(trial, row.metric, terms.seeds, terms.budget_s)

    def num_measured(self) -> int:
        return sum(isinstance(self.records.find(row.name), MeasuredRecord) for row in self.rows)

    def write(self, *, with_figures: bool = False) -> None:
        """Write the page, and draw the curves again where that is asked.

        Raises:
            InputError: the folder cannot be written.
        """
        standings = [self.standing(row) for row in self.rows]
        try:
            for one in standings if with_figures else ():
                if one.record:
                    draw(one.record, self.records.figure(one.row.name))
            self.page.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.page, self._text(standings))
        except OSError as err:
            raise self._unwritable(err) from err

    def keep(self, known: MeasuredRecord | Refusal) -> None:
        """Take a row's record in, and write its curve and the page.

        Raises:
            InputError: the folder cannot be written.
        """
        try:
            self.records.keep(known)
            if isinstance(known, MeasuredRecord):
                draw(known, self.records.figure(known.row))
        except OSError as err:
            raise self._unwritable(err) from err
        self.write()

    def problems(self) -> list[str]:
        """What of the page is not as headers and records give it."""
        standings = [self.standing(row) for row in self.rows]
        return problems_of(self._text(standings), self.page, standings, self.records.folder)

    def _text(self, standings: Sequence[RowStatus]) -> str:
        return page(standings, self.records.folder.name)

    def _unwritable(self, err: OSError) -> InputError:
        return InputError(
            [f"--page {self.page} cannot be written: {err.strerror}; free space there, or choose another"]
        )


def _run(book: _Book, wanted: Sequence[Row], are_named: bool) -> int:
    """Measure rows one after the other; 1 where a run failed, though the others went on."""
    without = [row.name for row in wanted if row.metric is None] if are_named else []
    told = "its header says nothing to measure; add `# Measure: test/accuracy_top1` or the like"
    if without:
        raise InputError([f"NAME={name}: {told}" for name in without])
    wanted = [row for row in wanted if row.metric is not None]
    configs = [book.terms.compose(row).config for row in wanted]  # what is wrong is told before a run
    if any(config["launcher"].get("dry_run") for config in configs):
        raise InputError(["launcher.dry_run=true runs nothing that could be measured; leave it out"], "`lathe zoo`")
    _say(_announced(book, list(zip(wanted, configs, strict=True))))
    counts = dict.fromkeys(("measured", "as before", "not measured", "failed"), 0)
    for number, (row, config) in enumerate(zip(wanted, configs, strict=True), 1):
        # A run's workers are processes of their own, and would go on; a second Ctrl-C does not wait until they have saved.
        with signals_as_interrupt(only_once=False):
            counts[_measure(book, row, trial_id(config), f"[{number}/{len(wanted)}] {row.name}")] += 1
    _say(", ".join(f"{count} {word}" for word, count in counts.items() if count) + f"; {book.page}")
    return 1 if counts["failed"] else 0


def _announced(book: _Book, wanted: Sequence[tuple[Row, dict[str, Any]]]) -> str:
    """What is about to be measured, and about how long that takes where a budget tells."""
    terms = book.terms
    names = [
        row.name
        for row, config in wanted
        if not book.has_measured(row, trial_id(config)) and missing_data(config["data"]) is None
    ]
    if not names:
        return "nothing is to be measured"
    seeds = f"{terms.seeds} seed{'s' if terms.seeds > 1 else ''}"
    if terms.budget_s is None:
        long = "each run to its end, which --budget 10m or the like would make shorter"
    else:
        in_all = format_duration(len(names) * terms.seeds * terms.budget_s)
        each = format_duration(terms.budget_s)
        long = f"about {each} a run at most after a short try, {in_all} in all if none is beside another"
    rows = f"{len(wanted)} row{'s' if len(wanted) > 1 else ''}"
    told = f"measures {len(names)} of {rows} with {seeds}, {long}: {', '.join(names)}"
    return f"{told}; Ctrl-C ends it, and said again it goes on"


def _measure(book: _Book, row: Row, trial: str, head: str) -> str:
    """Measure one row where that would tell something new, and say so; what became of it, in a word or two."""
    terms, before = book.terms, book.standing(row).record
    if before and book.has_measured(row, trial):
        _say(f"{head}: measured on {before.date}; --again measures it once more")
        return "as before"
    _say(f"{head}: {row.metric} of {terms.seeds} seed{'s' if terms.seeds > 1 else ''}")
    try:
        book.keep(measure(row, terms))
    except (Refused, Failed) as err:
        word = "failed" if isinstance(err, Failed) else "not measured"
        _say(f"{head}: {word}: {err}")
        if isinstance(err, Failed):
            _say(f"`lathe logs {err.sweep.folder}` shows more; said again, it goes on")
        if before is None:  # what was measured before says more
            book.keep(Refusal(row.name, str(err)))
        return word
    _say(f"{head}: {_result(book.standing(row))}")
    return "measured"


def _result(standing: RowStatus) -> str:
    record, row = standing.record, standing.row
    assert record is not None
    told = f"{record.metric} {measured_text(standing).replace('*', '')}, {cost_text(record)} a run"
    return f"{told}; its header expects {expected_text(row)}" if standing.is_outside else told


def _table(book: _Book, wanted: Sequence[Row]) -> Table:
    table = Table("row", "metric", "expected", "measured", "cost", title="zoo", title_justify="left")
    for one in map(book.standing, wanted):
        measured = measured_text(one).replace("*", "") or one.remark
        if book.has_changed(one):
            measured += " (its configuration has changed since)"
        cells = (one.row.name, one.row.metric or "", expected_text(one.row), measured, cost_text(one.record))
        table.add_row(*map(escape, cells))
    return table


def _say(line: str) -> None:
    make_console().print(line, highlight=False, markup=False, soft_wrap=True)
