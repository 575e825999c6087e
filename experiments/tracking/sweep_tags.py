"""The parameters, tags and note of a sweep in MLflow, and the names of the runs of its trials."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.core.format import format_hours, format_number, format_point
from experiments.run import journal
from experiments.run.annotations import read_annotations
from experiments.run.metrics import delivered_name
from experiments.sweep.budget import find_spent_limit, has_points_left
from experiments.sweep.ledger import ENDED, Entry, LedgerState
from experiments.sweep.space import Choice, Space, format_dimension
from experiments.sweep.space_parser import parse
from experiments.sweep.status.progress import Progress, TrialRow
from experiments.sweep.status.text import describe_mean, describe_repeats, find_short_keys, format_counts
from experiments.sweep.sweep import Sweep, format_reference
from experiments.tracking import run_tags
from experiments.trial.parameters import clean_keys, format_param, make_inert, mask_password, truncate

MAX_NAME = 200
MAX_CELL = 300
MAX_LISTED = 20
"""Most reused trials or sets of overrides in a note."""


def make_run_names(rows: Sequence[TrialRow], *, with_seed: bool, alone: str) -> dict[str, str]:
    """Name the runs of trials by the values that differ, ``lr=0.003, batch_size_global=64, seed=1``.

    Args:
        rows: all trials.
        with_seed: whether a point has several seeds.
        alone: the name of a trial without such values.
    """
    short = find_short_keys(rows)
    names = {}
    for row in rows:
        parts = [format_point({key: value}, short) for key, value in row.values.items()]
        parts += [f"seed={row.seed}"] if with_seed else []
        names[row.id] = truncate(", ".join(parts) or alone, MAX_NAME)
    return names


def describe_axes(space: Space) -> dict[str, str]:
    """Describe the values of each key of a space in the grammar of sweeps, with the option that a nested key belongs to."""
    texts: dict[str, list[str]] = {}

    def walk(inner_space: Space, condition: str) -> None:
        for key, part in inner_space.items():
            texts.setdefault(key, []).append(f"{format_dimension(part)}{condition}")
            for option, inner in part.inside.items() if isinstance(part, Choice) else ():
                walk(inner, f" with {key}={option}")

    walk(space, "")
    return {key: "; ".join(parts) for key, parts in texts.items()}


def make_params(spec: Mapping[str, Any]) -> dict[str, str]:
    """Make the parameters of a sweep, one per dimension. MLflow does not change them when the sweep is extended."""
    values: dict[str, Any] = {f"space.{key}": text for key, text in describe_axes(parse(spec["space"])).items()}
    values |= {key: spec[key] for key in ("metric", "mode", "num_seeds", "max_attempts")}
    values |= {"base": " ".join(spec["base"]), "strategy": spec["strategy"]["name"]}
    values |= {f"strategy.{key}": value for key, value in spec["strategy"].items() if key != "name"}
    if spec["pruner"]:
        values |= {"pruner": spec["pruner"]["name"]}
        values |= {f"pruner.{key}": value for key, value in spec["pruner"].items() if key != "name"}
    # Only limits that are set: a limit that is added later is then a new parameter.
    values |= {f"budget.{key}": value for key, value in spec["budget"].items() if value is not None}
    values |= {"points": len(spec["points"])} if spec["points"] else {}
    return clean_keys({key: format_param(value) for key, value in values.items()})


def make_sweep_tags(sweep: Sweep, config: Mapping[str, Any]) -> dict[str, str]:
    """Make the tags of a sweep that do not change."""
    values = {
        "lathe.kind": "sweep",
        "lathe.sweep": sweep.name,
        "lathe.sweep_key": sweep.key,
        "lathe.folder": str(sweep.folder.resolve()),
    }
    tags = run_tags.make_user_tags(config.get("tags") or {})
    return tags | run_tags.make_origin_tags(sweep.provenance) | values


def is_over(spec: Mapping[str, Any], is_adaptive: bool, state: LedgerState) -> bool:
    """Whether no trial runs and none will start.

    Args:
        spec: of the sweep.
        is_adaptive: whether workers ask the strategy for points, so that new trials may follow.
        state: state of its ledger.
    """
    states = {entry.state for entry in state.entries.values()}
    if "running" in states:
        return False
    if state.closed is not None or find_spent_limit(spec["budget"], state) is not None:
        return True
    # A sweep without trials was only just created.
    return bool(states) and "pending" not in states and not (is_adaptive and has_points_left(spec["budget"], state))


def determine_status(progress: Progress, over: bool) -> str:
    """Determine the status of a sweep in MLflow's terms."""
    if not over:
        return "RUNNING"
    is_cancelled = (progress.closed or "").startswith("cancelled")
    if progress.state == "cancelled" and (is_cancelled or not progress.done):
        return "KILLED"
    return "FAILED" if progress.counts["failed"] and not progress.done else "FINISHED"


def make_live_tags(progress: Progress, over: bool) -> dict[str, str]:
    """Make the tags that change while a sweep runs, without its note."""
    tags = {"lathe.state": progress.state if over or progress.state == "running" else "pending"}
    tags |= {"lathe.reason": progress.closed} if progress.closed else {}
    return tags | {f"lathe.{state}": str(count) for state, count in progress.counts.items()}


def make_trial_tags(sweep: Sweep, entry: Entry, parent: str) -> dict[str, str]:
    """Make the tags that a sweep adds to the run of a trial."""
    values = {
        "mlflow.parentRunId": parent,
        "lathe.kind": "trial",
        "lathe.sweep": sweep.name,
        "lathe.sweep_key": sweep.key,
        "lathe.point": str(entry.point),
        "lathe.worker": entry.worker,
        "lathe.host": entry.host,
    }
    return {key: text for key, text in values.items() if text}


def make_cost_event(entry: Entry) -> journal.MetricsEvent | None:
    """Make the metrics event with the cost of a trial that has ended; None for any other."""
    if entry.state not in ENDED:
        return None
    # By attempt, as several attempts can end at the same training step, and a step of a metric has one point.
    metrics = {"cost/queue_wait_s": entry.waited_s}
    return {"event": "metrics", "time": entry.since, "step": entry.attempt, "metrics": metrics}


def make_swept_params(entry: Entry) -> dict[str, str]:
    """Make the parameters of a trial under the swept keys, even if the configuration has no such leaf."""
    return clean_keys({key: format_param(value) for key, value in entry.values.items()})


def make_note(sweep: Sweep, progress: Progress, names: Mapping[str, str], links: Mapping[str, str], view: str) -> str:
    """Write the description of a sweep as Markdown: its goal, its progress and the commands that repeat it.

    Args:
        sweep: the sweep.
        progress: its progress.
        names: names of the runs of trials, by trial.
        links: links to their pages, by trial.
        view: link to the page that compares them.
    """
    spec = sweep.spec
    head = f"**{sweep.name}**" + (f": {spec['description']}" if spec["description"] else "")
    own = read_annotations(sweep.folder).note
    parts = [
        [f"{head} ([all trials side by side]({view}))"],  # MLflow shows only this line of a folded note
        [own] if own else [],
        _format_best(progress, names, links),  # MLflow shows the first lines, and the rest on demand
        [f"{_describe_goal(spec)}. {format_counts(progress)}, {format_hours(progress.used_h)} of device time"],
        _format_space(spec),
        _format_failures(progress, names, links),
        _format_reused(progress, names),
        _format_commands(sweep),
    ]
    return truncate(make_inert("\n\n".join("\n".join(lines) for lines in parts if lines)))


def _describe_goal(spec: Mapping[str, Any]) -> str:
    parts = [f"Search for the {'largest' if spec['mode'] == 'max' else 'smallest'} `{delivered_name(spec['metric'])}`"]
    parts += [f"strategy {spec['strategy']['name']}"]
    parts += [f"pruner {spec['pruner']['name']}"] if spec["pruner"] else []
    parts += describe_repeats(spec)
    limits = [f"{key}={value}" for key, value in spec["budget"].items() if value is not None]
    parts += [f"budget {' '.join(limits)}"] if limits else []
    return ", ".join(parts)


def _format_space(spec: Mapping[str, Any]) -> list[str]:
    rows = [(key, text) for key, text in describe_axes(parse(spec["space"])).items()]
    rows += [("points", " ".join(map(str, overrides))) for overrides in spec["points"][:MAX_LISTED]]
    rows += [("base", " ".join(spec["base"]))] if spec["base"] else []
    return (
        ["| key | values |", "|---|---|", *(f"| `{key}` | {_format_cell(text)} |" for key, text in rows)]
        if rows
        else []
    )


def _format_best(progress: Progress, names: Mapping[str, str], links: Mapping[str, str]) -> list[str]:
    if (best := progress.best) is None:
        return []
    mean = describe_mean(progress, best)
    of = ", ".join(_link_trial(trial, names, links) for trial in best.trials[:MAX_LISTED])
    return [f"**Best:** `{delivered_name(progress.metric)}` {format_number(best.value)}{mean}, of {of}"]


def _format_failures(progress: Progress, names: Mapping[str, str], links: Mapping[str, str]) -> list[str]:
    if not progress.failed:
        return []
    lines = ["| failure | trials | one of them |", "|---|---|---|"]
    for failure, count in progress.failed.items():
        row = next(row for row in progress.rows if row.state == "failed" and str(row.failure) == failure)
        lines.append(
            f"| {failure} | {count} | {_link_trial(row.id, names, links)}: {_format_cell(row.reason or failure)} |"
        )
    return lines


def _format_reused(progress: Progress, names: Mapping[str, str]) -> list[str]:
    reused = [f"`{names[row.id]}` of `{row.reused}`" for row in progress.rows if row.reused]
    more = f" and {len(reused) - MAX_LISTED} more" if len(reused) > MAX_LISTED else ""
    return [f"Results reused from other trials: {', '.join(reused[:MAX_LISTED])}{more}"] if reused else []


def _format_commands(sweep: Sweep) -> list[str]:
    folders, trust = run_tags.format_flags(sweep.provenance)
    name = format_reference(sweep)
    return [
        "### Run again",
        "",
        *run_tags.format_code(sweep.provenance),
        "",
        "```",
        shlex.join(["lathe", "sweep", *folders, *trust, "./sweep.yaml"]) + "  # from the artifacts",
        f"lathe resume {name}",
        f"lathe status {name}",
        "```",
    ]


def _link_trial(trial: str, names: Mapping[str, str], links: Mapping[str, str]) -> str:
    return f"[{names[trial]}]({links[trial]})" if trial in links else f"`{names[trial]}`"


def _format_cell(text: str) -> str:
    """Format a text as a cell of a table."""
    clean = " ".join(mask_password(text).split()).replace("`", "'").replace("|", "\\|")
    return f"`{truncate(clean, MAX_CELL)}`"
