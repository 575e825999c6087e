"""`lathe zoo`: measures the experiments, shows the results, and writes and checks the page with them."""

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
from experiments.core.files.paths import user_path
from experiments.core.format import format_duration
from experiments.core.signals import signals_as_interrupt
from experiments.results.zoo.figure import draw
from experiments.results.zoo.measure import MeasureOptions, NotMeasured, RunFailed, measure, missing_data
from experiments.results.zoo.page import RowStatus, cost_text, expected_text, find_problems, make_page, measured_text
from experiments.results.zoo.record import MeasuredRecord, Records, Refusal
from experiments.results.zoo.rows import Row, read_rows, select_rows
from experiments.trial.trial import trial_id

SECONDS = {"s": 1, "m": 60, "h": 3600}
SEEDS = 3


def zoo(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        InputError: an argument, a header or a record is not valid.
    """
    names, options = _read_args(args)
    rows = read_rows(options.config_dirs)
    selected = select_rows(rows, names)
    zoo_page = _ZooPage(Path(args.page), rows, options)
    if args.run:
        return _run(zoo_page, selected, bool(names))
    if args.write:
        zoo_page.write(with_figures=True)
        _say(f"{zoo_page.page} has {len(rows)} rows, {zoo_page.num_measured()} of them measured")
        return 0
    if args.check:
        problems = zoo_page.problems()
        for problem in problems:
            print(problem, file=sys.stderr)
        return 1 if problems else 0
    make_console().print(_table(zoo_page, selected))
    return 0


def _read_args(args: argparse.Namespace) -> tuple[list[str], MeasureOptions]:
    """The names of rows and the options of the command.

    Raises:
        InputError: with every wrong argument.
    """
    names = [text for text in args.words if "=" not in text and not text.startswith(("~", "+"))]
    overrides = [text for text in args.words if text not in names]
    verbs = [f"--{verb}" for verb in ("run", "write", "check") if getattr(args, verb)]
    problems = [f"{' and '.join(verbs)} exclude each other; choose one"] if len(verbs) > 1 else []
    if not args.run:
        given = {
            "--budget": args.budget, "--seeds": args.seeds, "--again": args.again, **dict.fromkeys(overrides, True)
        }  # fmt: skip
        problems += [
            f"{text} needs --run; write `lathe zoo --run {text}{' ...' if text in ('--budget', '--seeds') else ''}`"
            for text, value in given.items()
            if value
        ]
        verb = "--write" if args.write else "--check" if args.check else ""
        problems += [f"NAME={name}: {verb} applies to the whole page; leave the name out" for name in names if verb]
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", args.budget or "0s")
    if match is None or (args.budget and float(match[1]) == 0):
        problems.append(f"--budget {args.budget} is not a time; write 90s, 10m or 1.5h")
    if args.seeds is not None and args.seeds < 1:
        problems.append(f"--seeds {args.seeds} is not a number of runs; write 1 or more")
    if Path(args.page).suffix != ".md":  # else the folder of records would have the name of the page
        problems.append(f"--page {args.page} does not end in .md; write for example docs/zoo.md")
    if problems or match is None:
        raise InputError(problems, "`lathe zoo`")
    return names, MeasureOptions(
        seeds=SEEDS if args.seeds is None else args.seeds,
        budget_s=float(match[1]) * SECONDS[match[2]] if args.budget else None,
        again=args.again,
        overrides=tuple(overrides),
        config_dirs=tuple(args.config_dir),
        trust=tuple(args.trust),
    )


class _ZooPage:
    """The page, its rows and records."""

    def __init__(self, page: Path, rows: Sequence[Row], options: MeasureOptions) -> None:
        """
        Args:
            page: its file.
            rows: all rows.
            options: how rows are measured.
        """
        self.page, self.rows, self.options = user_path(page, "--page"), rows, options
        self.records = Records(self.page)

    def status(self, row: Row) -> RowStatus:
        """A row with its record."""
        return RowStatus(row, self.records.find(row.name))

    def has_changed(self, status: RowStatus) -> bool:
        """Whether the configuration of a row changed after it was measured.

        Raises:
            InputError: it does not compose.
        """
        record = status.record
        if record is None:
            return False
        try:
            return record.trial != trial_id(self.options.compose(status.row, *record.overrides).config)
        except InputError:
            if record.overrides:  # these may not fit any more
                return True
            raise

    def has_measured(self, row: Row, trial: str) -> bool:
        """Whether a row whose configuration has this id has a current record."""
        record, options = self.status(row).record, self.options
        if record is None or options.again:
            return False
        return record.is_current(trial, row.metric, options.seeds, options.budget_s)

    def num_measured(self) -> int:
        return sum(isinstance(self.records.find(row.name), MeasuredRecord) for row in self.rows)

    def write(self, *, with_figures: bool = False) -> None:
        """Write the page, and optionally all curves.

        Raises:
            InputError: the folder cannot be written.
        """
        statuses = [self.status(row) for row in self.rows]
        try:
            for one in statuses if with_figures else ():
                if one.record:
                    draw(one.record, self.records.figure(one.row.name))
            self.page.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.page, self._text(statuses))
        except OSError as err:
            raise self._unwritable(err) from err

    def add(self, record: MeasuredRecord | Refusal) -> None:
        """Write the record of a row, its curve and the page.

        Raises:
            InputError: the folder cannot be written.
        """
        try:
            self.records.write(record)
            if isinstance(record, MeasuredRecord):
                draw(record, self.records.figure(record.row))
        except OSError as err:
            raise self._unwritable(err) from err
        self.write()

    def problems(self) -> list[str]:
        """Every difference between the page and the headers and records."""
        statuses = [self.status(row) for row in self.rows]
        return find_problems(self._text(statuses), self.page, statuses, self.records.folder)

    def _text(self, statuses: Sequence[RowStatus]) -> str:
        return make_page(statuses, self.records.folder.name)

    def _unwritable(self, err: OSError) -> InputError:
        return InputError(
            [f"--page {self.page} cannot be written: {err.strerror}; free space there, or choose another file"]
        )


def _run(zoo_page: _ZooPage, selected: Sequence[Row], are_named: bool) -> int:
    """Measure rows one after the other; returns 1 if a run failed."""
    without = [row.name for row in selected if row.metric is None] if are_named else []
    problem = "its header has no metric; add `# Measure: test/accuracy_top1` or the like"
    if without:
        raise InputError([f"NAME={name}: {problem}" for name in without])
    selected = [row for row in selected if row.metric is not None]
    configs = [zoo_page.options.compose(row).config for row in selected]  # errors are reported before any run
    if any(config["launcher"].get("dry_run") for config in configs):
        raise InputError(["launcher.dry_run=true runs nothing; leave it out"], "`lathe zoo`")
    _say(_announce(zoo_page, list(zip(selected, configs, strict=True))))
    counts = dict.fromkeys(("measured", "unchanged", "not measured", "failed"), 0)
    for number, (row, config) in enumerate(zip(selected, configs, strict=True), 1):
        # Workers are separate processes and would continue. A second Ctrl-C does not wait until they have saved.
        with signals_as_interrupt(only_once=False):
            counts[_measure(zoo_page, row, trial_id(config), f"[{number}/{len(selected)}] {row.name}")] += 1
    _say(", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) + f"; {zoo_page.page}")
    return 1 if counts["failed"] else 0


def _announce(zoo_page: _ZooPage, selected: Sequence[tuple[Row, dict[str, Any]]]) -> str:
    """What is measured, and about how long it takes if there is a budget."""
    options = zoo_page.options
    names = [
        row.name
        for row, config in selected
        if not zoo_page.has_measured(row, trial_id(config)) and missing_data(config["data"]) is None
    ]
    if not names:
        return "there is nothing to measure"
    seeds = f"{options.seeds} seed{'s' if options.seeds > 1 else ''}"
    if options.budget_s is None:
        time = "each run to its end (--budget 10m or the like shortens it)"
    else:
        in_all = format_duration(len(names) * options.seeds * options.budget_s)
        each = format_duration(options.budget_s)
        time = f"at most about {each} per run after a short test, {in_all} altogether if they run one by one"
    rows = f"{len(selected)} row{'s' if len(selected) > 1 else ''}"
    plan = f"measures {len(names)} of {rows} with {seeds}, {time}: {', '.join(names)}"
    return f"{plan}; Ctrl-C stops it, and the same command resumes it"


def _measure(zoo_page: _ZooPage, row: Row, trial: str, head: str) -> str:
    """Measure one row unless its record is current; returns the outcome."""
    options, before = zoo_page.options, zoo_page.status(row).record
    if before and zoo_page.has_measured(row, trial):
        _say(f"{head}: measured on {before.date}; --again repeats it")
        return "unchanged"
    _say(f"{head}: {row.metric} with {options.seeds} seed{'s' if options.seeds > 1 else ''}")
    try:
        zoo_page.add(measure(row, options))
    except (NotMeasured, RunFailed) as err:
        outcome = "failed" if isinstance(err, RunFailed) else "not measured"
        _say(f"{head}: {outcome}: {err}")
        if isinstance(err, RunFailed):
            _say(f"`lathe logs {err.sweep.folder}` shows more; the same command resumes it")
        if before is None:  # an earlier measurement is more useful
            zoo_page.add(Refusal(row.name, str(err)))
        return outcome
    _say(f"{head}: {_result(zoo_page.status(row))}")
    return "measured"


def _result(status: RowStatus) -> str:
    record, row = status.record, status.row
    assert record is not None
    result = f"{record.metric} {measured_text(status).replace('*', '')}, {cost_text(record)} per run"
    return f"{result}; its header expects {expected_text(row)}" if status.is_outside else result


def _table(zoo_page: _ZooPage, selected: Sequence[Row]) -> Table:
    table = Table("row", "metric", "expected", "measured", "cost", title="zoo", title_justify="left")
    for one in map(zoo_page.status, selected):
        measured = measured_text(one).replace("*", "") or one.remark
        if zoo_page.has_changed(one):
            measured += " (its configuration has changed since)"
        cells = (one.row.name, one.row.metric or "", expected_text(one.row), measured, cost_text(one.record))
        table.add_row(*map(escape, cells))
    return table


def _say(line: str) -> None:
    make_console().print(line, highlight=False, markup=False, soft_wrap=True)
