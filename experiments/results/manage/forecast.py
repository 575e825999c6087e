"""Estimates what a sweep will take before it starts: from earlier runs that computed the same steps, else from the cost model."""

from __future__ import annotations

import json
import socket
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from rich.markup import escape
from rich.table import Table

from experiments.core.files.read_file import DamagedFileError
from experiments.core.format import format_duration, format_hours, format_point
from experiments.plan.plan import Plan, make_plan
from experiments.results.search.index import Index, IndexedRun, leaves
from experiments.run import journal
from experiments.sweep.create import SweepDraft

GROUPS = ("model", "data", "parallel", "objective", "evaluator", "gradient", "callback", "task")
"""Groups whose keys decide how long a step takes; of the optimizer only its class does."""
KEYS = (
    "optimizer._target_", "batch_size_global", "batch_size_per_device", "batch_size_eval", "precision", "compile",
    "channels_last", "eval_every_steps", "hardware.device", "hardware.nodes", "hardware.devices_per_node",
)  # fmt: skip
NEUTRAL = ("data.root", "data.fold")
MAX_RUNS = 20
"""Most earlier runs that are read for one kind of trial."""
START_S = 2.0
"""Time for the start of a trial in a worker."""
MODEL_FACTOR, ONE_RUN_FACTOR = 3.0, 1.5
"""Upper limit over estimate: of the cost model, which knows neither data loading nor evaluations; and of a single earlier run."""


@dataclass(frozen=True)
class Group:
    """Trials whose steps cost the same."""

    trials: int
    num_steps: float
    """Mean over these trials."""
    step_time_s: float
    step_time_max_s: float
    runs: tuple[str, ...]
    """The earlier runs whose steps were measured; empty: estimated by the cost model."""
    devices: int
    """Of one trial."""
    point: str
    """An example."""


@dataclass(frozen=True)
class Forecast:
    """What a sweep will take."""

    name: str
    trials: int
    reused: int
    """Trials whose results are taken from finished runs."""
    side_by_side: int
    """Trials that run at the same time."""
    time_s: float
    time_max_s: float
    """From the first start to the end, without waiting for a scheduler."""
    device_h: float
    device_h_max: float
    groups: tuple[Group, ...]
    notes: tuple[str, ...]


def make_forecast(draft: SweepDraft, todo: int, side_by_side: int) -> Forecast:
    """Estimate what a sweep will take.

    Args:
        draft: the sweep.
        todo: number of trials to run, including those that its strategy will choose.
        side_by_side: trials that run at the same time.

    Raises:
        PlanError: a trial does not fit into the memory of its device, or its components do not fit each other.
    """
    groups = list(_make_groups(draft, side_by_side)) if todo else []
    planned = sum(group.trials for group in groups)
    scale = todo / planned if planned else 0.0  # an adaptive strategy has not chosen its points yet: some are sampled
    budget, values = draft.spec.values["budget"], draft.spec.values
    device_s, time_s = list[float](), list[float]()
    for name in ("step_time_s", "step_time_max_s"):
        each = [(group.trials * scale, group, START_S + group.num_steps * getattr(group, name)) for group in groups]
        total = sum(count * length for count, _, length in each)
        device = sum(count * length * group.devices for count, group, length in each)
        wall = max([total / todo * -(-todo // side_by_side), *(length for _, _, length in each)]) if each else 0.0
        limits = ((budget["device_h"], device), (budget["wall_h"], wall))
        share = min([1.0, *(3600 * limit / used for limit, used in limits if limit and used)])
        device_s.append(share * device)
        time_s.append(share * wall)
    reused = sum(trial["reused"] is not None for trial in draft.trials)
    notes = [*draft.notes]
    if any(not group.runs for group in groups):
        notes.append(
            "the cost model knows neither data loading nor evaluations; a first short run makes the estimate better"
        )
    if any(group.runs for group in groups):
        notes.append("earlier runs may have shared this machine with more or fewer trials")
    if scale != 1.0 and planned:
        name = values["strategy"]["name"]
        notes.append(f"strategy {name} chooses points while it runs; the estimate is that of {planned} sampled trials")
    if values["pruner"]:
        notes.append("no pruned trial is taken into account; pruning makes it shorter")
    return Forecast(
        name=draft.spec.name,
        trials=todo + reused,
        reused=reused,
        side_by_side=side_by_side,
        time_s=time_s[0],
        time_max_s=time_s[1],
        device_h=device_s[0] / 3600,
        device_h_max=device_s[1] / 3600,
        groups=tuple(groups),
        notes=tuple(notes),
    )


def forecast_table(forecast: Forecast) -> Table:
    """A row for each kind of trial."""
    table = Table(title=escape(f"plan of the sweep '{forecast.name}'"), title_justify="left")
    for heading in ("trials", "devices each", "steps", "step", "at most", "trial"):
        table.add_column(heading, justify="right")
    table.add_column("from")
    table.add_column("such as", overflow="fold")
    for group in forecast.groups:
        length = START_S + group.num_steps * group.step_time_s
        source = (
            f"{len(group.runs)} earlier runs" if len(group.runs) > 1 else group.runs[0] if group.runs else "cost model"
        )
        steps = (f"{1e3 * step_s:.3g} ms" for step_s in (group.step_time_s, group.step_time_max_s))
        row = (
            f"{group.trials}",
            f"{group.devices}",
            f"{group.num_steps:,.0f}",
            *steps,
            format_duration(length),
            source,
        )
        table.add_row(*row, escape(group.point))
    return table


def describe_forecast(forecast: Forecast) -> Iterator[str]:
    """Lines for the user."""
    left = forecast.trials - forecast.reused
    yield f"{forecast.trials} trials, {left} to run, {forecast.side_by_side} at the same time"
    if left:
        yield f"time: probably {format_duration(forecast.time_s)}, at most about {format_duration(forecast.time_max_s)}"
        hours, most = format_hours(forecast.device_h), format_hours(forecast.device_h_max)
        yield f"device time: probably {hours}, at most about {most}"
    for note in forecast.notes:
        yield f"note: {note}"


def _make_groups(draft: SweepDraft, side_by_side: int) -> Iterator[Group]:
    kinds: dict[str, list[tuple[dict[str, Any], Plan, str]]] = {}
    for config, point in _list_configs(draft):
        kinds.setdefault(_as_key(dict(leaves("", config))), []).append((config, make_plan(config), point))
    measured = _measure_steps(
        draft.runs_dir, kinds, is_local="local" in draft.templates.all[0].config["launcher"]["_target_"]
    )
    for key, trials in kinds.items():
        config, plan, point = trials[0]
        runs = measured.get(key, {})
        if runs:
            probable, most = median(runs.values()), max(runs.values()) * (ONE_RUN_FACTOR if len(runs) == 1 else 1.0)
        else:
            probable = _estimate_step_s(config, plan, draft.templates.trust, side_by_side)
            most = MODEL_FACTOR * probable
        devices = plan.topology.world + plan.num_servers
        yield Group(
            len(trials), mean(one.num_steps for _, one, _ in trials), probable, most, tuple(runs), devices, point
        )


def _list_configs(draft: SweepDraft) -> Iterator[tuple[dict[str, Any], str]]:
    """The configuration and the point of each trial to run, or of a few that the strategy may choose."""
    pending = [(trial["values"], trial["seed"]) for trial in draft.trials if trial["reused"] is None]
    for values, seed in pending or [(values, 0) for values in draft.spec.preview_points() if not draft.trials]:
        yield draft.templates.fill(values, seed)[0], format_point(values)


def _estimate_step_s(config: dict[str, Any], plan: Plan, trust: Collection[str], side_by_side: int) -> float:
    from experiments.plan.estimate import check_memory, estimate, resolve_device, seconds_per_step

    resources = estimate(config, plan, trust)
    check_memory(resources, plan, config["hardware"])
    # The cost model takes all cores of the machine for one trial.
    return seconds_per_step(resources, config["hardware"]) * (
        side_by_side if resolve_device(config["hardware"]) == "cpu" else 1
    )


def _measure_steps(runs_dir: Path, keys: Collection[str], *, is_local: bool) -> dict[str, dict[str, float]]:
    """Seconds of a step, with evaluations and checkpoints, by kind of trial and run; of this machine if trials run on it."""
    if not runs_dir.is_dir():
        return {}
    found: dict[str, dict[str, float]] = {}
    for run in sorted(Index(runs_dir).runs(), key=lambda run: -run.created):
        if run.state != "finished" or (is_local and (run.entry["last"] or {}).get("host") != socket.gethostname()):
            continue
        runs = found.setdefault(key, {}) if (key := _as_key(run.config)) in keys else None
        if runs is not None and len(runs) < MAX_RUNS and (step_s := _read_step_s(run)) is not None:
            runs[f"{run.folder.parent.name}/{run.id}"] = step_s
    return found


def _read_step_s(run: IndexedRun) -> float | None:
    """The mean time of a step in the first attempt of a run, from its first training to its end."""
    try:
        attempts = journal.journals(run.folder)
        states = [event for event in journal.read(attempts[0])[0] if event["event"] == "state"] if attempts else []
    except (DamagedFileError, OSError):
        return None
    begin = next((state for state in states if state["state"] == "running"), None)
    if begin is None or states[-1]["step"] <= begin["step"]:
        return None
    return float(states[-1]["time"] - begin["time"]) / (states[-1]["step"] - begin["step"])


def _as_key(config: Mapping[str, Any]) -> str:
    """What of a configuration, by dotted key, decides how long a step takes."""
    counted = {
        key: value for key, value in config.items()
        if key in KEYS or (key.partition(".")[0] in GROUPS and "." in key and key not in NEUTRAL)
    }  # fmt: skip
    return json.dumps(counted, sort_keys=True, default=str)
