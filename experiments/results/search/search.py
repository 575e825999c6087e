"""`lathe ls`: lists the runs that match a condition on overrides, metrics, tags, states and times."""

from __future__ import annotations

import argparse
import datetime
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from experiments.core import renamed
from experiments.core.console import make_console
from experiments.core.errors import InputError, did_you_mean
from experiments.core.format import format_duration, format_number, format_point, to_json
from experiments.results.search.condition import (
    Comparison,
    Condition,
    Lookup,
    as_text,
    comparisons,
    condition_error,
    parse,
)
from experiments.results.search.index import ATTRIBUTES, LARGEST, SMALLEST, Index, IndexedRun
from experiments.run.metrics import DELIVERED, delivered_name
from experiments.trial.lookup import check_runs_dir

EXTREMES = {"min:": SMALLEST, "max:": LARGEST}
"""Prefixes of a metric for the smallest or largest value of its curve; without a prefix it is the last value."""
IN_EVERY_ROW = ATTRIBUTES[:-1]
STATES = ("new", "pending", "running", "finished", "pruned", "failed", "interrupted", "killed", "cancelled")
"""All states of a run."""
VERDICTS = ("identical", "within tolerance", "different", "interrupted")
DAY_S = 86_400.0


@dataclass(frozen=True)
class Columns:
    """The keys of a flag."""

    keys: Sequence[str]
    flag: str = "--columns"
    others: Sequence[str] = ()
    """Names that the flag takes besides keys of runs, for hints."""


@dataclass(frozen=True)
class Keys:
    """The keys of all runs."""

    config: frozenset[str]
    metrics: frozenset[str]

    @classmethod
    def from_runs(cls, runs: Sequence[IndexedRun]) -> Keys:
        config = frozenset(key for run in runs for key in run.config)
        return cls(config, frozenset(name for run in runs for name in run.metrics))

    def resolve(self, text: str) -> str | None:
        """The key with this name, or the only one with this end (``lr``) or beginning (``val/accuracy``)."""
        keys = self.find(text)
        return keys[0] if len(keys) == 1 else None

    def find(self, text: str) -> list[str]:
        """All keys that the text can stand for."""
        mark = next((mark for mark in EXTREMES if text.startswith(mark)), "")
        name = text.removeprefix(mark)
        known = self.metrics if mark else self.config | self.metrics
        if name in known or (not mark and name in ATTRIBUTES):
            return [text]
        ends = [key for key in known if key.endswith((f".{name}", f"/{name}")) and not key.startswith(DELIVERED)]
        begins = [key for key in self.metrics if key.startswith(name)] if "/" in name else []
        return sorted(mark + key for key in ends or begins)

    def all(self) -> list[str]:
        return [*ATTRIBUTES, *self.config, *self.metrics, *(mark + name for mark in EXTREMES for name in self.metrics)]


def ls(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        InputError: the condition is not valid, or no run has one of its keys.
    """
    runs_dir, limit = Path(args.runs_dir), args.limit
    if limit is not None and limit < 1:
        raise InputError([f"-n {limit} lists no run; write a positive number, or leave it out to list all"])
    columns = split_columns(args.columns)
    matching, names = search(runs_dir, args.condition, args.sort, Columns(columns))
    shown = matching[:limit]
    if args.json:
        print(to_json([_document(run, {key: names[key] for key in columns}) for run in shown]))
    elif matching:
        mentioned = list(dict.fromkeys(names.values())) or _default_metric(matching)
        now = time.time()
        make_console().print(
            _make_table_of([names[key] for key in columns], shown, now) if columns else _table(shown, mentioned, now)
        )
        if len(shown) < len(matching):
            print(f"{len(shown)} of {len(matching)} runs; leave out -n to list all", file=sys.stderr)
    else:
        num_runs = len(Index(runs_dir).runs())
        print(
            f"0 of {num_runs} runs in {runs_dir} match {args.condition}"
            if num_runs
            else f"there are no runs in {runs_dir}"
        )
    return 0


def split_columns(text: str | None) -> list[str]:
    """The keys of `--columns`."""
    return list(dict.fromkeys(filter(None, (key.strip() for key in (text or "").split(",")))))


def search(
    runs_dir: Path, condition: str | None, sort: str | None = None, columns: Columns | None = None
) -> tuple[list[IndexedRun], dict[str, str]]:
    """Find the runs that match a condition.

    Returns:
        The runs, sorted; and the full name of every key in the condition, in ``sort`` and in ``columns``.

    Raises:
        InputError: there is no such folder, the condition is not valid, or it names a key that no run has.
    """
    check_runs_dir(runs_dir)
    parsed = parse(condition) if condition and condition.strip() else None
    index = Index(runs_dir)
    runs = index.runs()
    for damage in index.damaged:
        print(f"warning: {damage}", file=sys.stderr)
    names = resolve_keys(parsed, condition or "", sort, Keys.from_runs(runs), columns) if runs else {}
    matching = [run for run in runs if parsed is None or parsed.holds(_lookup(run, names))]
    return _sorted(matching, sort, names), names


def _lookup(run: IndexedRun, names: Mapping[str, str]) -> Lookup:
    return lambda key: get_value(run, names[key])


def resolve_keys(
    condition: Condition | None, text: str, sort: str | None, known: Keys, columns: Columns | None = None
) -> dict[str, str]:
    """The full key for each key of the condition, of ``sort`` and of ``columns``.

    Raises:
        InputError: no run has such a key, or the key is ambiguous.
    """
    names: dict[str, str] = {}
    for one in comparisons(condition) if condition is not None else ():
        names[one.key] = _resolve(one, text, known)
    if sort is not None:
        key = sort.removeprefix("-")
        name = known.resolve(key)
        if name is None:
            raise InputError([f"--sort {sort}: {_explain(key, known)}"])
        names[key] = name
    if columns is None:
        return names
    found = {key: known.resolve(key) for key in columns.keys}
    if missing := [key for key, name in found.items() if name is None]:
        raise InputError([f"{columns.flag} {key}: {_explain(key, known, columns.others)}" for key in missing])
    return names | {key: name for key, name in found.items() if name is not None}


def _resolve(one: Comparison, text: str, known: Keys) -> str:
    name = known.resolve(one.key)
    if name is None:
        raise condition_error(text, one.at, _explain(one.key, known))
    states = {"state": STATES, "verdict": VERDICTS}.get(name)
    if states is not None and one.op in ("=", "==", "!=") and one.value not in states:
        hint = renamed.suggestion(one.value, states)
        raise condition_error(text, one.at, f"{name}{one.op}{one.value} is not a {name} of a run; {hint}")
    return name


def _explain(key: str, known: Keys, others: Sequence[str] = ()) -> str:
    """Why a key cannot be resolved; ``others`` would have been possible too."""
    if keys := known.find(key):
        return f"{key} can be {', '.join(keys[:5])}; write more of it"
    if key.startswith("tags."):
        return (
            f"no run has the tag {key.removeprefix('tags.')}; `lathe tag RUN {key.removeprefix('tags.')}=...` adds it"
        )
    mark = next((mark for mark in EXTREMES if key.startswith(mark)), "")
    if names := renamed.new_names(key.removeprefix(mark)):
        return f"no run has the key {key}; it is now called {' or '.join(repr(mark + name) for name in names)}"
    return f"no run has the key {key}; {did_you_mean(key, [*others, *known.all()])}"


def get_value(run: IndexedRun, key: str) -> Any:
    """The value of a run for a key; None if it has no such key."""
    for mark, position in EXTREMES.items():
        if key.startswith(mark):
            return run.extreme(key.removeprefix(mark), position)
    if key in ATTRIBUTES:
        return getattr(run, key)
    return run.metrics[key] if key in run.metrics else _or_null(run.config, key)


def _or_null(config: Mapping[str, Any], key: str) -> Any:
    """A value of the configuration; "null" for an existing key without a value."""
    return "null" if key in config and config[key] is None else config.get(key)


def _sorted(runs: Sequence[IndexedRun], sort: str | None, names: Mapping[str, str]) -> list[IndexedRun]:
    """Sort by a key, runs without it last; without a key, the newest first."""
    newest = sorted(runs, key=lambda run: (-run.created, run.id))
    if sort is None:
        return newest
    key = names.get(sort.removeprefix("-"), "")
    values = {id(run): get_value(run, key) for run in newest}
    has = [run for run in newest if not _is_missing(values[id(run)])]
    has.sort(key=lambda run: _rank(values[id(run)]), reverse=sort.startswith("-"))
    return [*has, *(run for run in newest if _is_missing(values[id(run)]))]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _rank(value: Any) -> tuple[bool, float, str]:
    """Sorts numbers before text."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (not is_number, float(value) if is_number else 0.0, "" if is_number else as_text(value))


def _default_metric(runs: Sequence[IndexedRun]) -> list[str]:
    """The metric that the table shows by default: `checkpoint.best_metric` of the newest run, at the delivered step."""
    name = delivered_name(str(runs[0].config.get("checkpoint.best_metric")))
    return [name] if any(name in run.metrics for run in runs) else []


def _table(runs: Sequence[IndexedRun], mentioned: Sequence[str], now: float) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    has_sweeps = any(run.sweep for run in runs)
    shown = [key for key in mentioned if key not in IN_EVERY_ROW]
    for heading in ("run", "name or point" if has_sweeps else "name", *(["sweep"] if has_sweeps else []), "state"):
        table.add_column(heading, overflow="fold")
    for key in shown:
        table.add_column(escape(key), justify="right", overflow="fold")
    table.add_column("started", justify="right", no_wrap=True)
    for run in runs:
        cells = [run.id, _shown_name(run), *([run.sweep or ""] if has_sweeps else []), run.state]
        cells += [_cell(get_value(run, key)) for key in shown]
        table.add_row(*map(escape, cells), _when(run.created, now))
    return table


def _make_table_of(keys: Sequence[str], runs: Sequence[IndexedRun], now: float) -> Table:
    """A table of the keys of `--columns`, after the id that every command takes."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold")
    for key in keys:
        is_text = key in IN_EVERY_ROW or any(isinstance(get_value(run, key), str) for run in runs)
        table.add_column(escape(key), justify="left" if is_text else "right", overflow="fold")
    for run in runs:
        cells = (_when(run.created, now) if key == "created" else _cell(get_value(run, key)) for key in keys)
        table.add_row(escape(run.id), *map(escape, cells))
    return table


def _shown_name(run: IndexedRun) -> str:
    """For a trial of a sweep the values that vary, else the name; always a name of `lathe rename`."""
    if run.annotations.name:
        return run.annotations.name
    short = {key: key.rpartition(".")[2] for key in run.values}
    is_clear = len(set(short.values())) == len(short)
    return format_point(run.values, short if is_clear else None) or run.name


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return format_number(value)
    return "" if value is None else as_text(value)


def _when(created: float, now: float) -> str:
    if now - created < DAY_S:
        return f"{format_duration(max(0.0, now - created))} ago"
    return datetime.datetime.fromtimestamp(created).strftime("%Y-%m-%d %H:%M")


def _document(run: IndexedRun, columns: Mapping[str, str]) -> dict[str, Any]:
    """The record of a run; with ``columns``, also the values of these keys, by the name that the user wrote."""
    metrics = {
        name: {"last": run.metrics[name], "min": run.extreme(name, SMALLEST), "max": run.extreme(name, LARGEST)}
        for name in run.metrics
    }
    return {
        "id": run.id, "name": run.name, "sweep": run.sweep, "state": run.state, "created": run.created,
        "verdict": run.verdict, "note": run.note, "folder": str(run.folder.resolve()), "values": run.values, "metrics": metrics,
        "config": run.config, **({"columns": {key: get_value(run, name) for key, name in columns.items()}} if columns else {}),
    }  # fmt: skip
