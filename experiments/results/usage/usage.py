"""`lathe usage`: device-hours by user, project, time, tag or any other key."""

from __future__ import annotations

import datetime
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from experiments.core.console import make_console
from experiments.core.errors import InputError
from experiments.core.files.read_file import DamagedFileError
from experiments.core.format import to_json
from experiments.results.search.condition import as_text, timestamp
from experiments.results.search.index import IndexedRun
from experiments.results.search.search import Columns, get_value, search, split_columns
from experiments.results.usage.attempts import AttemptUsage, read_usage
from experiments.trial.trial import Trial

PERIODS: Mapping[str, str] = {"day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m"}
OWN_KEYS = ("user", "project", *PERIODS)
"""Keys besides those of `lathe ls`."""


@dataclass
class UsageGroup:
    """The runs with the same values of the keys."""

    runs: set[Path] = field(default_factory=set)
    attempts: set[tuple[Path, AttemptUsage]] = field(default_factory=set)
    device_s: float = 0.0

    def add(self, run: Path, attempt: AttemptUsage, device_s: float) -> None:
        self.runs.add(run)
        self.attempts.add((run, attempt))
        self.device_s += device_s


def usage(args: Namespace) -> int:
    """Print the device-hours of the runs.

    Raises:
        InputError: a key, a date or the condition is wrong.
    """
    keys = split_columns(args.by)
    since, until = (_read_date(flag, getattr(args, flag)) for flag in ("since", "until"))
    columns = Columns([key for key in keys if key not in OWN_KEYS], "--by", OWN_KEYS)
    runs, names = search(Path(args.runs_dir), args.condition, None, columns)
    groups, total = _measure(runs, keys, names, since, until)
    if args.json:
        rows = [{**dict(zip(keys, values, strict=True)), **_document(group)} for values, group in groups]
        print(to_json({"by": keys, "groups": rows, "total": _document(total)}))
    else:
        make_console().print(_make_table(keys, groups, total))
    return 0


def _read_date(flag: str, text: str | None) -> float | None:
    if text is None:
        return None
    if (date := timestamp(text)) is None:
        raise InputError([f"--{flag} {text} is not a date; write one such as 2026-11-24 or 2026-11-24T15:30"])
    return date


def _measure(
    runs: Sequence[IndexedRun], keys: Sequence[str], names: Mapping[str, str], since: float | None, until: float | None
) -> tuple[list[tuple[tuple[Any, ...], UsageGroup]], UsageGroup]:
    """The groups, sorted by the values of their keys, and the sum of all."""
    groups, total = dict[tuple[Any, ...], UsageGroup](), UsageGroup()
    for run in runs:
        try:
            project = _find_project(run.folder) if "project" in keys else ""
            for attempt in read_usage(run.folder):
                known = {"user": attempt.user, "project": project}
                for start, end in _split(attempt, since, until, by_day=any(key in PERIODS for key in keys)):
                    values = tuple(
                        datetime.datetime.fromtimestamp(start).strftime(PERIODS[key]) if key in PERIODS
                        else known[key] if key in known else get_value(run, names[key])
                        for key in keys
                    )  # fmt: skip
                    for group in (groups.setdefault(_hashable(values), UsageGroup()), total):
                        group.add(run.folder, attempt, (end - start) * attempt.num_devices)
        except DamagedFileError as err:
            print(f"warning: {'; '.join(err.problems)}", file=sys.stderr)
    return sorted(groups.items(), key=lambda item: [(value is None, as_text(value)) for value in item[0]]), total


def _hashable(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(as_text(value) if isinstance(value, (list, dict)) else value for value in values)


def _find_project(folder: Path) -> str:
    """The first repository of a run's code besides Lathe's own; without one, Lathe's."""
    code = Trial(folder).provenance["code"]
    return str(code[min(1, len(code) - 1)]["name"]) if code else ""


def _split(
    attempt: AttemptUsage, since: float | None, until: float | None, *, by_day: bool
) -> Iterator[tuple[float, float]]:
    """The parts of an attempt within the dates; with ``by_day`` cut at each midnight."""
    start = attempt.started if since is None else max(since, attempt.started)
    end = attempt.ended if until is None else min(until, attempt.ended)
    if end < start:
        return
    while by_day:
        tomorrow = datetime.datetime.fromtimestamp(start).date() + datetime.timedelta(days=1)
        midnight = datetime.datetime.combine(tomorrow, datetime.time.min).timestamp()
        if midnight >= end:
            break
        yield start, midnight
        start = midnight
    yield start, end


def _document(group: UsageGroup) -> dict[str, Any]:
    return {"num_runs": len(group.runs), "num_attempts": len(group.attempts), "device_h": group.device_s / 3600}


def _make_table(keys: Sequence[str], groups: Sequence[tuple[tuple[Any, ...], UsageGroup]], total: UsageGroup) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), show_footer=bool(keys))
    for number, key in enumerate(keys):
        table.add_column(escape(key), footer="" if number else "all", overflow="fold")
    sums = {"runs": len(total.runs), "attempts": len(total.attempts)}
    for heading, count in sums.items():
        table.add_column(heading, footer=f"{count:,}", justify="right")
    table.add_column("device-hours", footer=_format_hours(total), justify="right")
    for values, group in groups if keys else [((), total)]:
        cells = ("none" if value is None else as_text(value) for value in values)
        table.add_row(*map(escape, cells), f"{len(group.runs):,}", f"{len(group.attempts):,}", _format_hours(group))
    return table


def _format_hours(group: UsageGroup) -> str:
    hours = group.device_s / 3600
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.3f}"
