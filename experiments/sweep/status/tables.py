"""Tables for `lathe status`: all sweeps, one sweep with its trials, and a live view."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.core.console import make_console
from experiments.core.errors import InputError
from experiments.core.format import format_duration, format_hours, format_number, format_point, to_json
from experiments.run.metrics import delivered_name
from experiments.sweep.ledger import ENDED, State
from experiments.sweep.status.progress import (
    Progress,
    ProgressReader,
    TrialRow,
    read_all,
    read_progress,
)
from experiments.sweep.status.text import (
    describe_changes,
    find_short_ids,
    find_short_keys,
    fit_keys,
    format_best,
    format_counts,
    format_progress,
    format_reason,
    list_annotations,
)  # fmt: skip
from experiments.sweep.sweep import Sweep, format_reference
from experiments.sweep.worker.reaper import reap
from experiments.trial.lookup import check_runs_dir
from launchers.base import DONE, FAILED, Executor

MAX_ROWS = 40
POLL_S = 1.0
SCHEDULER_POLL_S = 10.0
"""How often to query the scheduler, which all users share."""
WIDE, MIDDLE = 140, 100
"""Terminal widths for the full and the medium table."""
GAP = 2
MIN_WIDTH = 8
"""Minimum width of a column that can shrink."""
ELASTIC = ("point", "why")
NUMERIC = ("seed", "step", "value", "last", "attempt", "time")
MAX_REASONS = 10
STYLES: Mapping[str, str] = {
    "running": "cyan", "finished": "green", "done": "green", "pruned": "blue", "failed": "bold red",
    "cancelled": "dim", "pending": "", "spent": "yellow",
}  # fmt: skip
DIGITS = {"max_points": 0, "wall_h": 2, "device_h": 2}
STATE_TEXTS: Mapping[str, str] = {"failed": "some failed", "spent": "budget spent"}
"""Long texts of a sweep's states."""


def limit_rows(rows: Sequence[TrialRow], max_rows: int) -> list[TrialRow]:
    """Shorten a long table: a limited number of rows of each state, in order."""
    limits: Mapping[State, int] = {"failed": max_rows // 3, "running": max_rows // 2}
    seen: dict[State, int] = {}
    shown, others = list[TrialRow](), list[TrialRow]()
    for row in rows:
        seen[row.state] = seen.get(row.state, 0) + 1
        (shown if seen[row.state] <= limits.get(row.state, 0) else others).append(row)
    chosen = {row.id for row in [*shown, *others][:max_rows]}
    return [row for row in rows if row.id in chosen]


def make_summary(progress: Progress, *, has_bar: bool) -> RenderableType:
    """The summary above the trials."""
    style = STYLES.get(progress.state, "")
    state = "stalled" if progress.is_stranded else STATE_TEXTS.get(progress.state, progress.state)
    head = Text.assemble(
        ("sweep ", "bold"), (progress.name, "bold"), ": ", (state, style), f", {format_counts(progress)}"
    )
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    if has_bar:
        table.add_row("", ProgressBar(max(1, progress.total), progress.done, width=40))
    for name, text in _summary_rows(progress):
        table.add_row(name, Text(text))
    return Group(head, table)


def _summary_rows(progress: Progress) -> list[tuple[str, str]]:
    facts = [*list_annotations(progress), *([("best", format_best(progress, progress.best))] if progress.best else [])]
    if progress.failed:
        facts.append(("failed", ", ".join(f"{count} {name}" for name, count in progress.failed.items())))
    if progress.state == "running" or progress.queued:
        queued = f", {progress.queued} queued" if progress.queued else ""
        facts.append(("workers", f"{progress.workers} running{queued}"))
    left = f", about {format_duration(progress.left_s)} left" if progress.left_s is not None else ""
    facts.append(("time", f"{format_duration(progress.elapsed_s)}{left}"))
    wasted = f", {format_hours(progress.wasted_h)} of it wasted" if progress.wasted_h * 3600 >= 1 else ""
    facts.append(("devices", f"{format_hours(progress.used_h)} used{wasted}"))
    if progress.budget:
        limits = (
            f"{share.spent:.{DIGITS[name]}f} of {share.of:g} {name.removeprefix('max_')}"
            for name, share in progress.budget.items()
        )
        facts.append(("budget", ", ".join(limits)))
    if progress.closed:
        facts.append(("closed", progress.closed))
    return facts


def make_trials_table(
    progress: Progress, rows: Sequence[TrialRow], width: int, max_reasons: int = MAX_REASONS
) -> RenderableType:
    """The table of trials, with as many columns as fit; reasons are below it if they do not fit."""
    columns = _columns(progress, rows, width)
    widths = {name: max(len(text.plain) for text in cells) for name, cells in columns.items()}
    left = width - sum(wanted + GAP for name, wanted in widths.items() if name not in ELASTIC)
    for name in ELASTIC:
        if name in columns:
            widths[name] = max(MIN_WIDTH, min(widths[name], left - GAP))
            left -= widths[name] + GAP
    if "point" in columns:  # missing if trials differ only in their seed
        keys = fit_keys(rows, find_short_keys(progress.rows), widths["point"])
        columns["point"][1:] = [Text(format_point(row.values, keys)) for row in rows]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, GAP - 1, 0, 0))
    for name, cells in columns.items():
        justify: Literal["left", "right"] = "right" if name in NUMERIC else "left"
        table.add_column(cells[0], width=widths[name], justify=justify, no_wrap=True, overflow="ellipsis")
    for row_cells in zip(*(cells[1:] for cells in columns.values()), strict=True):
        table.add_row(*row_cells)
    if "why" in columns:
        return table
    ids = _shorten_ids(progress, width)
    reasons = [(ids[row.id], reason) for row in rows if (reason := format_reason(row))][:max_reasons]
    lines = [Text(f"{name}  {reason}", no_wrap=True, overflow="ellipsis", style="dim") for name, reason in reasons]
    return Group(table, *([""] if lines else []), *lines)


def _columns(progress: Progress, rows: Sequence[TrialRow], width: int) -> dict[str, list[Text]]:
    """Heading and cells of each column, by name."""
    short, is_wide = find_short_keys(progress.rows), width >= MIDDLE
    ids = _shorten_ids(progress, width)
    columns = {
        "trial": ["trial", *(ids[row.id] for row in rows)],
        "point": ["point", *(format_point(row.values, short) for row in rows)],
        "seed": ["seed", *(str(row.seed) for row in rows)],
        "state": ["state", *(row.state for row in rows)],
        "step": ["step" if is_wide else "", *(_format_steps(row, is_wide=is_wide) for row in rows)],
        "value": ["delivered", *(format_number(row.value) for row in rows)],
        "last": [progress.metric, *(format_number(row.last) for row in rows)],
        "attempt": ["attempt", *(str(row.attempt or "") for row in rows)],
        "time": ["time", *(_format_time(row) for row in rows)],
        "worker": ["worker", *(_format_worker(row) for row in rows)],
        "why": ["why", *map(format_reason, rows)],
    }
    empty = {name for name, (_, *texts) in columns.items() if not any(texts)}
    hidden = empty | ({"attempt"} if not is_wide else set()) | ({"last", "worker", "why"} if width < WIDE else set())
    hidden |= set() if any(row.seed for row in progress.rows) else {"seed"}
    styles = ["", *(STYLES[row.state] for row in rows)]
    return {
        name: [Text(text, style=style if name == "state" else "") for text, style in zip(texts, styles, strict=True)]
        for name, texts in columns.items()
        if name not in hidden
    }


def _shorten_ids(progress: Progress, width: int) -> dict[str, str]:
    return {row.id: row.id for row in progress.rows} if width >= MIDDLE else find_short_ids(progress.rows)


def _format_time(row: TrialRow) -> str:
    """Duration of an ended trial; how long a started one has been running or pending."""
    if row.attempt == 0:
        return ""
    return format_duration(row.took_s if row.state in ENDED and row.took_s is not None else row.in_state_s)


def _format_worker(row: TrialRow) -> str:
    if row.state != "running":
        return ""
    return row.worker if row.worker.startswith(row.host) else f"{row.worker} on {row.host}"


def _format_steps(row: TrialRow, *, is_wide: bool) -> str:
    if not row.step and row.state != "running":
        return ""
    if is_wide:
        return f"{row.step:,}/{row.num_steps:,}" if row.num_steps else f"{row.step:,}"
    return f"{100 * row.step // row.num_steps}%" if row.num_steps else f"{row.step}"


def make_sweeps_table(known: Sequence[Progress], now: float, width: int) -> Table:
    """The table of all sweeps in a folder."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, GAP - 1, 0, 0))
    rows = [
        (progress, f"{progress.done}/{progress.total}", f"{format_duration(max(0.0, now - progress.opened))} ago")
        for progress in known
    ]

    def add_column(name: str, texts: Iterable[str], justify: Literal["left", "right"] = "left") -> None:
        """Add a column that stays wide if the last column has a long text."""
        table.add_column(name, justify=justify, no_wrap=True, min_width=max(map(len, (name, *texts))))

    add_column("sweep", (progress.name for progress in known))
    add_column("state", (STATE_TEXTS.get(progress.state, progress.state) for progress in known))
    add_column("done", (done for _, done, _ in rows), "right")
    add_column("started", (started for _, _, started in rows), "right")
    table.add_column("best", overflow="ellipsis", no_wrap=True)
    for progress, done, started in rows:
        value = ""
        if (best := progress.best) is not None:
            metric = delivered_name(progress.metric) if width >= MIDDLE else progress.metric.rpartition("/")[2]
            short = None if width >= WIDE else find_short_keys(progress.rows)
            value = f"{metric} {format_number(best.value)}  {format_point(best.values, short)}"
        state = Text(STATE_TEXTS.get(progress.state, progress.state), style=STYLES.get(progress.state, ""))
        table.add_row(progress.name, state, done, started, value)
    return table


DoneHint = Callable[[Sweep], str]
"""Makes the line that says where to view a finished sweep; from the tracking backend."""


def show(sweep: Sweep, args: argparse.Namespace, done_hint: DoneHint) -> int:
    """Show one sweep, for `lathe status`.

    Args:
        sweep: the sweep to show.
        args: the command's arguments.
        done_hint: makes the line below a sweep that is done.
    """
    screen, executor = make_console(), sweep.observer()
    if args.watch:
        show_live(sweep, executor, done_hint, is_attached=False)
        return DONE
    ledger = sweep.ledger()
    for text in reap(sweep, ledger, executor):
        print(text, file=sys.stderr)
    progress = read_progress(sweep, ledger, executor)
    if args.json:
        print(to_json(progress))
        return DONE
    known = [row for row in progress.rows if row.state == "failed"] if args.failed else list(progress.rows)
    rows = known if args.all else limit_rows(known, MAX_ROWS)
    screen.print(make_summary(progress, has_bar=screen.is_terminal))
    if rows:
        screen.print("", make_trials_table(progress, rows, screen.width))
    for text in _make_hints(progress, sweep, done_hint, len(known) - len(rows)):
        _print(screen, text)
    return DONE


def show_all(runs_dir: Path, *, as_document: bool) -> int:
    """Show one line for each sweep in a folder, for `lathe status`."""
    screen = make_console()
    check_runs_dir(runs_dir)
    known = read_all(Sweep(path.parent.resolve()) for path in runs_dir.glob("*/sweep.yaml"))
    if as_document:
        print(to_json(known))
    elif known:
        screen.print(make_sweeps_table(known, time.time(), screen.width))
    else:
        _print(screen, f"there is no sweep in {runs_dir}; `lathe sweep NAME` starts one")
    return DONE


def _make_hints(progress: Progress, sweep: Sweep, done_hint: DoneHint, num_hidden: int = 0) -> Iterator[str]:
    """Hints for the next command."""
    name = format_reference(sweep)
    if num_hidden:
        yield f"{num_hidden} more trials; `lathe status {name} --all` shows them"
    num_pending = progress.counts["pending"] + progress.to_ask
    if progress.is_stranded:
        trials = "1 trial is" if num_pending == 1 else f"{num_pending} trials are"
        yield f"{trials} pending and no worker is left; `lathe resume {name}` starts workers"
    if progress.closed and progress.state == "failed":
        yield progress.closed
    if progress.counts["failed"]:
        yield f"`lathe logs {name}` shows the output of failed trials, `lathe resume {name}` runs them again"
    if progress.done:
        yield done_hint(sweep)


Restart = Callable[[int], str | None]


def show_live(
    sweep: Sweep, executor: Executor | None, done_hint: DoneHint, stop_when_done: bool = True, *, is_attached: bool = True,
    restart: Restart = lambda num_ended: None,
) -> int:  # fmt: skip
    """Show a running sweep: a live table on a terminal, elsewhere one line for each ended trial.

    Args:
        sweep: the sweep to show.
        executor: reports its workers.
        done_hint: makes the last line, printed when the sweep is done.
        stop_when_done: return when the sweep is over or stalled; otherwise only at Ctrl-C.
        is_attached: this command has also started the sweep, so at Ctrl-C it says that the sweep continues.
        restart: starts workers when none is left, given how many trials have ended; returns a line, or None if it does not.

    Returns:
        0; 1 if trials or the strategy failed, trials were cancelled, or no worker is left.
    """
    screen, name, progress = make_console(), format_reference(sweep), None

    def poll(say: Callable[[str], None]) -> Iterator[Progress]:
        return _poll_progress(sweep, executor, stop_when_done, say, restart, partial(_print, screen))

    try:
        progress = (_show_live_table if screen.is_terminal else _print_changes)(screen, poll)
    except KeyboardInterrupt:
        if is_attached:
            _print(screen, f"the sweep continues; `lathe status {name}` shows it, `lathe cancel {name}` ends it")
        return DONE
    for text in _make_hints(progress, sweep, done_hint):
        _print(screen, text)
    is_good = not (progress.is_stranded or progress.counts["failed"] or progress.counts["cancelled"])
    return DONE if is_good and progress.state not in ("cancelled", "failed") else FAILED


Poll = Callable[[Callable[[str], None]], Iterator[Progress]]


def _show_live_table(screen: Console, poll: Poll) -> Progress:
    with Live(console=screen, auto_refresh=False) as shown:
        for progress in poll(lambda text: _print(screen, text)):
            num_summary_rows = len(_summary_rows(progress))
            rows = limit_rows(progress.rows, max(4, screen.height - num_summary_rows - 9))
            view = Group(
                make_summary(progress, has_bar=True), "", make_trials_table(progress, rows, screen.width, max_reasons=2)
            )
            shown.update(view, refresh=True)
        rows = limit_rows(progress.rows, MAX_ROWS)
        view = Group(make_summary(progress, has_bar=True), "", make_trials_table(progress, rows, screen.width))
        shown.update(view, refresh=False)
    return progress


def _print_changes(screen: Console, poll: Poll) -> Progress:
    before: Progress | None = None
    for progress in poll(lambda text: None):
        for text in describe_changes(before, progress) if before else ():
            _print(screen, text)
        if before is None or _count_ended(progress) != _count_ended(before):
            _print(screen, format_progress(progress))
        before = progress
    state = "stalled" if progress.is_stranded else STATE_TEXTS.get(progress.state, progress.state)
    elapsed, used = format_duration(progress.elapsed_s), format_hours(progress.used_h)
    _print(screen, f"sweep {progress.name}: {state} after {elapsed}, {used} of device time used")
    return progress


def _poll_progress(
    sweep: Sweep, executor: Executor | None, stop_when_done: bool, say: Callable[[str], None], restart: Restart,
    announce: Callable[[str], None],
) -> Iterator[Progress]:  # fmt: skip
    """Yield the progress until the sweep ends, and reap lost workers."""
    ledger = sweep.ledger()
    reader = ProgressReader(sweep, ledger, executor)
    next_time, turn = 0.0, 0
    while True:
        if not sweep.folder.is_dir():
            raise InputError([f"the sweep's folder {sweep.folder} was removed; there is nothing to show"])
        progress = reader.read()
        if (started := time.monotonic()) >= next_time:
            for text in reap(sweep, ledger, executor):
                say(text)
            if turn % 3 == 0 or not progress.counts["running"]:
                reader.query_scheduler()
            progress, turn = reader.read(), turn + 1
            took_s = time.monotonic() - started  # long if the scheduler does not answer
            next_time = started + max(SCHEDULER_POLL_S, 10 * took_s)
        yield progress
        if stop_when_done and progress.is_over:
            return
        if stop_when_done and progress.is_stranded:
            if (started_again := restart(_count_ended(progress))) is None:
                return
            announce(started_again)
        time.sleep(POLL_S)


def _count_ended(progress: Progress) -> int:
    return sum(count for state, count in progress.counts.items() if state in ENDED)


def _print(screen: Console, text: str) -> None:
    screen.print(text, highlight=False, markup=False, soft_wrap=True)
