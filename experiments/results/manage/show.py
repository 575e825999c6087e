"""`lathe show RUN`: everything about one run; and the short table of `lathe status RUN`."""

from __future__ import annotations

import datetime
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from experiments.core.console import make_console
from experiments.core.errors import InputError
from experiments.core.format import format_bytes, format_duration, format_number, format_point, to_json
from experiments.results.manage.facts import AttemptFacts, RunFacts, read_facts
from experiments.results.manage.find import find_run_or_sweep
from experiments.run.metrics import DELIVERED, DELIVERED_STEP
from experiments.sweep.sweep import Sweep

MEASURED = ("train/", "val/", "test/", DELIVERED, "evaluation/")
"""Prefixes of the metrics in the table; costs and speeds are in the JSON document."""


def show(args: Namespace) -> int:
    """Print everything about one run.

    Raises:
        InputError: there is no such run, or it is a sweep.
    """
    target = find_run_or_sweep(args.run, Path(args.runs_dir))
    if isinstance(target, Sweep):
        raise InputError(
            [f"'{args.run}' is a sweep; `lathe status {target.name}` shows it, `lathe show` one of its trials"]
        )
    facts = read_facts(target)
    if args.json:
        print(to_json(facts))
        return 0
    console = make_console()
    for table in (make_overview(facts), _make_origin(facts), _make_attempts(facts.attempts), _make_metrics(facts)):
        if table.row_count:
            console.print(table)
    return 0


def make_overview(facts: RunFacts) -> Table:
    """The state of a run, and the commands that go on from it."""
    table = Table(
        title=escape(f"run {facts.id} of '{facts.name}': {facts.state}"), title_justify="left", show_header=False
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _overview(facts):
        table.add_row(name, escape(text))
    return table


def _overview(facts: RunFacts) -> Iterator[tuple[str, str]]:
    if facts.reason:
        yield "reason", facts.reason
    of = f"/{facts.num_steps:,}" if facts.num_steps is not None else ""
    left = f", about {format_duration(facts.left_s)} left" if facts.left_s is not None else ""
    yield "step", f"{facts.step:,}{of}{left}"
    begun = [attempt.started for attempt in facts.attempts if attempt.started is not None]
    if facts.created is not None:
        yield "created", _format_time(facts.created)
    if begun:
        yield "started", _format_time(begun[0])
    if facts.ended is not None:
        yield "ended", _format_time(facts.ended)
    if (best := _find_best(facts)) is not None:
        yield best
    if facts.sweep:
        yield "sweep", facts.sweep
    yield "folder", f"{facts.folder} ({format_bytes(facts.size_bytes)})"
    if facts.resume and facts.state != "running":
        yield "resume", facts.resume
    if facts.state == "running":
        yield "cancel", f"lathe cancel {facts.id}"


def _find_best(facts: RunFacts) -> tuple[str, str] | None:
    """The metric that decides which step the run delivers, at that step."""
    name = f"{DELIVERED}{facts.best_metric}"
    if name not in facts.metrics:
        return None
    step = facts.metrics.get(DELIVERED_STEP, {}).get("last")
    at = "" if step is None else f" at step {step:,.0f}"
    return f"best {facts.best_metric}", f"{format_number(facts.metrics[name]['last'])}{at}"


def _make_origin(facts: RunFacts) -> Table:
    """The configuration in short, and where everything comes from."""
    table = _make_table("configuration", "", "")
    chosen = {group: option for group, option in facts.choices.items() if option is not None}
    rows = {
        "description": facts.description or "",
        "note": facts.note or "",
        "tags": format_point(facts.tags),
        "overrides": " ".join(facts.overrides) or "none",
        "options": " ".join(f"{group}={option}" for group, option in chosen.items()),
        **{key: _format_origin(origin) for key, origin in facts.origins.items()},
        "code": ", ".join(map(_format_code, facts.code)),
        "trial id": facts.trial_id if facts.trial_id != facts.id else "",
        "checkpoints": ", ".join(
            f"step {one.step:,} ({format_bytes(one.size_bytes)}{', delivered' * one.is_delivered})"
            for one in facts.checkpoints
        ),
        "MLflow run": facts.mlflow.get("run_id", ""),
        "verdict": facts.verdict or "",
        "warnings": "\n".join(facts.warnings),
    }
    for name, text in rows.items():
        if text:
            table.add_row(name, escape(text))
    return table


def _format_origin(origin: Any) -> str:
    return (
        format_point({key: value for key, value in origin.items() if value})
        if isinstance(origin, Mapping)
        else str(origin)
    )


def _format_code(entry: Mapping[str, Any]) -> str:
    commit = str(entry.get("git_sha") or "no commit")[:12]
    return f"{entry['name']} at {commit}{' with uncommitted changes' if entry.get('dirty') else ''}"


def _make_attempts(attempts: list[AttemptFacts]) -> Table:
    table = _make_table("attempts", "attempt", "state", "started", "took", "step", "on", "why")
    for one in attempts:
        took = one.ended - one.started if one.ended is not None and one.started is not None else None
        on = "" if one.host is None else f"{one.host}, process {one.pid}"
        changes = f"changed: {format_point(one.changes)}" if one.changes else ""
        why = "; ".join(filter(None, (one.reason, changes)))
        started = "" if one.started is None else _format_time(one.started)
        table.add_row(
            *map(escape, (str(one.number), one.state, started, format_duration(took), f"{one.step:,}", on, why))
        )
    return table


def _make_metrics(facts: RunFacts) -> Table:
    table = _make_table("metrics", "metric", "last", "step", "min", "max")
    for name, values in facts.metrics.items():
        if name.startswith(MEASURED):
            has_curve = name.startswith(("train/", "val/"))
            ends = (format_number(values[key]) if has_curve else "" for key in ("min", "max"))
            table.add_row(escape(name), format_number(values["last"]), f"{values['step']:,}", *ends)
    return table


def _make_table(title: str, *columns: str) -> Table:
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0),
        show_header=any(columns),
    )  # fmt: skip
    for number, column in enumerate(columns):
        is_number = column in ("took", "last", "step", "min", "max")
        style = "" if number or any(columns) else "bold"
        table.add_column(column, overflow="fold", justify="right" if is_number else "left", style=style)
    return table


def _format_time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
