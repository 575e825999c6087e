"""The progress of a sweep as plain data."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from experiments.core.files.read_file import DamagedFileError, MissingFileError
from experiments.run.journal_tail import JournalTail
from experiments.sweep.budget import find_spent_limit, sum_device_s
from experiments.sweep.expand import count_trials_per_point, select_point
from experiments.sweep.ledger import Entry, Ledger, LedgerState, State, average_value
from experiments.sweep.status.confidence import estimate_half_width
from experiments.sweep.sweep import Sweep
from experiments.sweep.templates import read_templates
from experiments.sweep.worker.reaper import reap
from launchers.base import Executor

STARTING_S = 20.0
"""How long a worker may take to create its folder."""
SILENT_S = 300.0
"""How long workers that the scheduler does not report may take to start a trial, with imports from a cold file system."""
ORDER: tuple[State, ...] = ("failed", "running", "pending", "finished", "pruned", "cancelled")


@dataclass(frozen=True)
class TrialRow:
    """The progress of one trial."""

    id: str
    point: int
    values: dict[str, Any]
    seed: int
    state: State
    step: int
    num_steps: int | None
    """None until the trial has started, if the configuration does not state it."""
    last: float | None
    """Last value of the metric; None if the trial has ended."""
    value: float | None
    """Value of the metric at the step that the trial delivers, or would deliver now (`metrics.delivered_value`)."""
    attempt: int
    worker: str
    host: str
    since: float
    in_state_s: float
    took_s: float | None
    """Device time of all ended attempts."""
    failure: str | None
    reason: str | None
    used_h: float
    wasted_h: float
    reused: str | None


@dataclass(frozen=True)
class BestPoint:
    """The best point, by the mean over its trials."""

    point: int
    values: dict[str, Any]
    value: float
    trials: tuple[str, ...]
    half_width: float | None = None
    """Of the 95 % confidence interval of the value; None with one trial."""


@dataclass(frozen=True)
class BudgetUse:
    """The used part of a budget."""

    spent: float
    of: float


@dataclass(frozen=True)
class Progress:
    """The progress of a sweep."""

    name: str
    folder: str
    metric: str
    mode: str
    state: str
    """running, pending, done, failed (some, or its strategy), cancelled (some), or spent: its budget."""
    total: int
    """Number of trials, including those that the strategy will choose."""
    done: int
    """Trials that are finished or pruned."""
    counts: dict[State, int]
    failed: dict[str, int]
    """Number of failed trials by failure class."""
    to_ask: int
    """Trials that the strategy has not chosen yet."""
    opened: float
    """Time at which the first trial was added."""
    used_h: float
    """Device-hours, including running trials."""
    wasted_h: float
    elapsed_s: float
    left_s: float | None
    """An estimate; None if nothing has finished yet."""
    best: BestPoint | None
    workers: int
    """Workers that run a trial."""
    queued: int | None
    """Workers that have not started; None if the scheduler was not queried."""
    is_stranded: bool
    """Trials are pending, and no worker is running or queued."""
    closed: str | None
    """Why no more trials start."""
    budget: dict[str, BudgetUse]
    average_over: tuple[str, ...]
    """Keys whose values are trials of one point, besides the seed."""
    rows: tuple[TrialRow, ...] = field(repr=False)

    @property
    def is_over(self) -> bool:
        return self.state not in ("running", "pending")


class ProgressReader:
    """Reads the progress of one sweep repeatedly, each time only the new events."""

    def __init__(self, sweep: Sweep, ledger: Ledger, executor: Executor | None = None) -> None:
        """
        Args:
            sweep: the sweep to read.
            ledger: this process's view of it.
            executor: counts queued workers; None: they are not counted.
        """
        self.sweep, self.ledger, self.executor = sweep, ledger, executor
        self._tails: dict[tuple[str, int], JournalTail] = {}
        self._lengths: list[tuple[dict[str, str], int | None]] | None = None
        self._queued: int | None = None
        self._has_workers = True

    def query_scheduler(self) -> None:
        """Ask the scheduler how many workers are queued, and whether any started one still runs."""
        ledger_state = self.ledger.read()
        is_pending = (
            any(entry.state == "pending" for entry in ledger_state.entries.values())
            or self._count_unchosen(ledger_state) > 0
        )
        if self.executor is None or not is_pending or ledger_state.closed is not None:
            self._queued = None
            return
        jobs = [str(submission["job"]) for submission in ledger_state.submissions]
        self._queued = self.executor.count_pending(jobs) if jobs else 0
        known = sorted(path.name for path in (self.sweep.folder / "workers").glob("*/"))
        # A running trial in the ledger shows that a worker is left.
        is_running = any(entry.state == "running" for entry in ledger_state.entries.values())
        self._has_workers = is_running or (bool(known) and len(self.executor.find_lost(known)) < len(known))

    def read(self) -> Progress:
        """Read the current progress."""
        ledger_state, spec, now = self.ledger.read(), self.sweep.spec, time.time()
        entries = list(ledger_state.entries.values())
        rows = [self._make_row(entry, now) for entry in entries]
        running = {(row.id, row.attempt) for row in rows if row.state == "running"}
        self._tails = {key: tail for key, tail in self._tails.items() if key in running}
        counts = Counter(entry.state for entry in entries)
        closed = ledger_state.closed or (find_spent_limit(spec["budget"], ledger_state) if entries else None)
        unchosen = self._count_unchosen(ledger_state)
        state = _determine_state(counts, closed, unchosen)
        to_ask = unchosen if closed is None else 0
        is_over = state not in ("running", "pending")
        ended = max((entry.since for entry in entries), default=now) if is_over else now
        return Progress(
            name=self.sweep.name,
            folder=str(self.sweep.folder),
            metric=spec["metric"],
            mode=spec["mode"],
            state=state,
            total=len(entries) + to_ask,
            done=counts["finished"] + counts["pruned"],
            counts={name: counts[name] for name in ORDER},
            failed=dict(Counter(str(entry.failure) for entry in entries if entry.state == "failed").most_common()),
            to_ask=to_ask,
            opened=ledger_state.opened or (self.sweep.folder / "sweep.yaml").stat().st_mtime,
            used_h=sum_device_s(ledger_state, now) / 3600,
            wasted_h=sum(entry.wasted_s for entry in entries) / 3600,
            elapsed_s=max(0.0, ended - ledger_state.opened) if entries else 0.0,
            left_s=None if is_over else _estimate_left_s(rows, self._tails, to_ask),
            best=_find_best(ledger_state, spec),
            workers=len({entry.worker for entry in entries if entry.state == "running"}),
            queued=self._queued,
            is_stranded=state == "pending" and self._is_stranded(ledger_state, now),
            closed=closed if state != "done" else None,
            budget=_measure_budget_use(spec["budget"], ledger_state, now),
            average_over=tuple(spec["average_over"]),
            rows=tuple(sorted(rows, key=lambda row: _sort_key(row, spec["mode"]))),
        )

    def _count_unchosen(self, ledger_state: LedgerState) -> int:
        """Trials that the strategy may still choose within the budget of points."""
        spec = self.sweep.spec
        if not self.sweep.is_adaptive or spec["budget"]["max_points"] is None:
            return 0
        left: int = spec["budget"]["max_points"] - len(ledger_state.points)
        return max(0, left) * count_trials_per_point(spec)

    def _is_stranded(self, ledger_state: LedgerState, now: float) -> bool:
        if self._queued != 0:
            return False
        times = [entry.since for entry in ledger_state.entries.values()]
        quiet_s = now - max(times + [submission["time"] for submission in ledger_state.submissions], default=now)
        return quiet_s > (SILENT_S if self._has_workers else STARTING_S)

    def _make_row(self, entry: Entry, now: float) -> TrialRow:
        row = TrialRow(
            id=entry.id, point=entry.point, values=entry.values, seed=entry.seed, state=entry.state, step=entry.step,
            num_steps=entry.step if entry.state == "finished" and entry.step else self._find_num_steps(entry.values),
            last=None, value=entry.value, attempt=entry.attempt, worker=entry.worker, host=entry.host,
            since=entry.since, in_state_s=max(0.0, now - entry.since),
            took_s=entry.used_s / entry.devices if entry.devices else None,
            failure=entry.failure, reason=entry.reason, used_h=entry.used_s / 3600, wasted_h=entry.wasted_s / 3600,
            reused=entry.reused,
        )  # fmt: skip
        if entry.state != "running":
            return row
        metric, mode = self.sweep.spec["metric"], self.sweep.spec["mode"]
        tail = self._tails.setdefault(
            (entry.id, entry.attempt), JournalTail(_attempt_folder(self.sweep, entry), metric)
        )
        tail.read()
        last = tail.values.last[1] if tail.values.last else None
        value = tail.delivered_value(mode)
        num_steps = tail.num_steps or row.num_steps
        return replace(row, step=max(tail.step, entry.step), num_steps=num_steps, last=last, value=value)

    def _find_num_steps(self, values: Mapping[str, Any]) -> int | None:
        """Steps of a trial, if the configuration states them."""
        if self._lengths is None:
            try:
                templates = read_templates(self.sweep.folder)
            except MissingFileError:
                templates = []
            self._lengths = [(template["choices"], template["config"].get("max_steps")) for template in templates]
        if "max_steps" in values:
            return int(values["max_steps"])
        for choices, length in self._lengths:
            if all(values.get(group) == option for group, option in choices.items()):
                return length
        return None


def read_progress(sweep: Sweep, ledger: Ledger, executor: Executor | None = None) -> Progress:
    """Read the progress of a sweep once."""
    reader = ProgressReader(sweep, ledger, executor)
    reader.query_scheduler()
    progress = reader.read()
    warn_of_damage(ledger)
    return progress


def has_workers(sweep: Sweep, ledger: Ledger, executor: Executor) -> bool:
    """Whether a worker of a sweep is queued, starts or runs. Reap lost workers first."""
    ledger_state = ledger.read()
    if any(entry.state == "running" for entry in ledger_state.entries.values()):
        return True
    submissions = ledger_state.submissions
    if not submissions:
        return False
    if executor.count_pending([str(submission["job"]) for submission in submissions]):
        return True
    known = sorted(path.name for path in (sweep.folder / "workers").glob("*/"))
    if known and len(executor.find_lost(known)) < len(known):
        return True
    # A worker that has just been started has no folder yet.
    is_complete = len(known) >= sum(int(submission["workers"]) for submission in submissions)
    return not is_complete and time.time() - float(submissions[-1]["time"]) < STARTING_S


def read_all(sweeps: Iterable[Sweep]) -> list[Progress]:
    """Read the progress of sweeps, the newest first. A damaged one is named on standard error and left out."""
    known = []
    for sweep in sweeps:
        try:
            reap(sweep, ledger := sweep.ledger(), None)
            known.append(read_progress(sweep, ledger))
        except DamagedFileError as err:
            print(f"warning: {'; '.join(err.problems)}", file=sys.stderr)
    return sorted(known, key=lambda progress: -progress.opened)


def warn_of_damage(ledger: Ledger) -> None:
    """Name the damaged lines of a ledger on standard error, once."""
    if (damage := ledger.describe_damage()) is not None:
        _warn_once(damage)


@lru_cache
def _warn_once(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _attempt_folder(sweep: Sweep, entry: Entry) -> Path:
    return sweep.folder / entry.id / "attempts" / str(entry.attempt)


def _determine_state(counts: Mapping[State, int], closed: str | None, unchosen: int) -> str:
    if counts["running"]:
        return "running"
    if closed is not None and closed.startswith(("sweep.strategy", "sweep.pruner")):
        return "failed"
    if counts["pending"] or unchosen:
        return "pending" if closed is None else "cancelled" if closed.startswith("cancelled") else "spent"
    return "cancelled" if counts["cancelled"] else "failed" if counts["failed"] else "done"


def _sort_key(row: TrialRow, mode: str) -> tuple[float, float, int, int]:
    """Sort key of the table: failed, running, interrupted, then finished trials, the best first."""
    value = math.inf if row.value is None or math.isnan(row.value) else -row.value if mode == "max" else row.value
    by_value = value if row.state in ("finished", "pruned") else 0.0
    has_not_started = row.state == "pending" and row.attempt == 0
    return ORDER.index("pruned") + 0.5 if has_not_started else ORDER.index(row.state), by_value, row.point, row.seed


def _find_best(ledger_state: LedgerState, spec: Mapping[str, Any]) -> BestPoint | None:
    """The best of the points whose trials have all finished."""
    best: BestPoint | None = None
    for point, entries in ledger_state.points.items():
        mean = average_value(entries)
        if mean is None or not math.isfinite(mean):
            continue
        if best is None or (mean > best.value if spec["mode"] == "max" else mean < best.value):
            best = BestPoint(point, select_point(spec, entries[0].values), mean, tuple(entry.id for entry in entries))
    if best is None:
        return None
    values = [entry.value for entry in ledger_state.points[best.point] if entry.value is not None]
    return replace(best, half_width=estimate_half_width(values))


def _estimate_left_s(
    rows: Sequence[TrialRow], tails: Mapping[tuple[str, int], JournalTail], to_ask: int
) -> float | None:
    """Time left, from the mean duration of trials and the number that run now."""
    running = [row for row in rows if row.state == "running"]
    if not running:
        return None
    paces = [tails[row.id, row.attempt].estimate_left_s(row.in_state_s, row.num_steps) for row in running]
    durations = [row.took_s for row in rows if row.state in ("finished", "pruned") and row.took_s]
    durations = durations or [
        row.in_state_s + left for row, left in zip(running, paces, strict=True) if left is not None
    ]  # no trial has ended yet
    if not durations:
        return None
    mean = sum(durations) / len(durations)
    running_left_s = [
        max(0.0, mean - row.in_state_s) if left is None else left for row, left in zip(running, paces, strict=True)
    ]
    num_pending = to_ask + sum(row.state == "pending" for row in rows)
    return max(max(running_left_s), (sum(running_left_s) + mean * num_pending) / len(running))


def _measure_budget_use(budget: Mapping[str, Any], ledger_state: LedgerState, now: float) -> dict[str, BudgetUse]:
    used = {
        "max_points": float(len(ledger_state.points)),
        "wall_h": (now - ledger_state.opened) / 3600 if ledger_state.entries else 0.0,
        "device_h": sum_device_s(ledger_state, now) / 3600,
    }
    return {name: BudgetUse(used[name], float(of)) for name, of in budget.items() if of is not None}
