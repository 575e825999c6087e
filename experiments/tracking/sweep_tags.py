"""What MLflow shows of a sweep besides its curves: parameters, tags, a note, and the names of its trials' runs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.core.format import format_hours, format_number, format_point
from experiments.run import journal
from experiments.sweep.budget import find_spent_limit, has_points_left
from experiments.sweep.ledger import ENDED, Entry, LedgerState
from experiments.sweep.space import Choice, Space, format_dimension
from experiments.sweep.space_parser import parse
from experiments.sweep.status.progress import Progress, TrialRow
from experiments.sweep.status.text import counts_text, short_keys
from experiments.sweep.sweep import Sweep, format_reference
from experiments.tracking import run_tags
from experiments.trial.parameters import clean_key, format_param, mask_password, truncate

MAX_NAME = 200
MAX_CELL = 300
MAX_LISTED = 20
"""Of trials that failed or were reused, or of sets of overrides."""


def make_run_names(rows: Sequence[TrialRow], *, with_seed: bool, alone: str) -> dict[str, str]:
    """What the runs of trials are called: by what tells them from each other, ``lr=0.003, batch_size_global=64, seed=1``.

    Args:
        rows: all trials.
        with_seed: whether a point has several.
        alone: the name of a trial that nothing is to be told from.
    """
    short = short_keys(rows)
    found = {}
    for row in rows:
        words = [format_point({key: value}, short) for key, value in row.values.items()]
        words += [f"seed={row.seed}"] if with_seed else []
        found[row.id] = truncate(", ".join(words) or alone, MAX_NAME)
    return found


def describe_axes(space: Space) -> dict[str, str]:
    """What each key of a space may be, in the grammar of sweeps; of one that an option brings along also with which."""
    found: dict[str, list[str]] = {}

    def walk(part_of: Space, under: str) -> None:
        for key, part in part_of.items():
            found.setdefault(key, []).append(f"{format_dimension(part)}{under}")
            for option, inner in part.inside.items() if isinstance(part, Choice) else ():
                walk(inner, f" with {key}={option}")

    walk(space, "")
    return {key: "; ".join(texts) for key, texts in found.items()}


def make_params(question: Mapping[str, Any]) -> dict[str, str]:
    """The question as parameters, an axis each; MLflow keeps the first of what a sweep is extended by later."""
    told: dict[str, Any] = {f"space.{key}": text for key, text in describe_axes(parse(question["space"])).items()}
    told |= {key: question[key] for key in ("metric", "mode", "num_seeds", "max_attempts")}
    told |= {"base": " ".join(question["base"]), "strategy": question["strategy"]["name"]}
    told |= {f"strategy.{key}": value for key, value in question["strategy"].items() if key != "name"}
    if question["pruner"]:
        told |= {"pruner": question["pruner"]["name"]}
        told |= {f"pruner.{key}": value for key, value in question["pruner"].items() if key != "name"}
    # Only what is limited: a limit that comes later is then a parameter of its own.
    told |= {f"budget.{key}": value for key, value in question["budget"].items() if value is not None}
    told |= {"points": len(question["points"])} if question["points"] else {}
    return {clean_key(key): format_param(value) for key, value in told.items()}


def make_sweep_tags(sweep: Sweep, config: Mapping[str, Any]) -> dict[str, str]:
    """What stays true of a sweep."""
    named = {
        "lathe.kind": "sweep",
        "lathe.sweep": sweep.name,
        "lathe.sweep_key": sweep.key,
        "lathe.folder": str(sweep.folder.resolve()),
    }
    return run_tags.make_user_tags(config) | run_tags.make_origin_tags(sweep.provenance) | named


def is_over(question: Mapping[str, Any], is_adaptive: bool, standing: LedgerState) -> bool:
    """Whether no trial runs and none will be begun.

    Args:
        question: of the sweep.
        is_adaptive: whether its workers ask the strategy for points, so that more may come though none waits.
        standing: by its ledger.
    """
    states = {entry.state for entry in standing.entries.values()}
    if "running" in states:
        return False
    if standing.closed is not None or find_spent_limit(question["budget"], standing) is not None:
        return True
    # Without a trial it has only just been written.
    return (
        bool(states) and "pending" not in states and not (is_adaptive and has_points_left(question["budget"], standing))
    )


def determine_status(progress: Progress, over: bool) -> str:
    """MLflow's word for a sweep."""
    if not over:
        return "RUNNING"
    by_hand = (progress.closed or "").startswith("cancelled")
    if progress.state == "cancelled" and (by_hand or not progress.done):
        return "KILLED"
    return "FAILED" if progress.counts["failed"] and not progress.done else "FINISHED"


def make_live_tags(progress: Progress, over: bool) -> dict[str, str]:
    """What changes while a sweep goes on, but for its note."""
    words = {"lathe.state": progress.state if over or progress.state == "running" else "pending"}
    words |= {"lathe.reason": progress.closed} if progress.closed else {}
    return words | {f"lathe.{state}": str(count) for state, count in progress.counts.items()}


def make_trial_tags(sweep: Sweep, entry: Entry, parent: str) -> dict[str, str]:
    """What a sweep says of one of its trials' runs."""
    named = {
        "mlflow.parentRunId": parent,
        "lathe.kind": "trial",
        "lathe.sweep": sweep.name,
        "lathe.sweep_key": sweep.key,
        "lathe.point": str(entry.point),
        "lathe.worker": entry.worker,
        "lathe.host": entry.host,
    }
    return {key: text for key, text in named.items() if text}


def make_cost_event(entry: Entry) -> journal.MetricsEvent | None:
    """What the ledger measured of a trial that has ended; None of any other."""
    if entry.state not in ENDED:
        return None
    metrics = {"cost/queue_wait_s": entry.waited_s}
    return {"event": "metrics", "time": entry.since, "step": entry.step, "metrics": metrics}


def make_swept_params(entry: Entry) -> dict[str, str]:
    """What varies, each a parameter under the key that was swept, also where the configuration has no such leaf."""
    return {clean_key(key): format_param(value) for key, value in entry.values.items()}


def make_note(sweep: Sweep, progress: Progress, names: Mapping[str, str], links: Mapping[str, str], view: str) -> str:
    """A sweep's description as Markdown: what was asked, where it stands, and how to have it again.

    Args:
        sweep: which.
        progress: where it stands.
        names: of the trials' runs, by trial.
        links: to their pages, by trial.
        view: link to the page that shows them side by side.
    """
    question = sweep.spec
    head = f"**{sweep.name}**" + (f": {question['description']}" if question["description"] else "")
    parts = [
        [f"{head} ([all trials side by side]({view}))"],  # of a folded note MLflow shows this line alone
        _format_best(progress, names, links),  # MLflow's page shows the first lines, and the rest on demand
        [f"{_describe_goal(question)}. {counts_text(progress)}, {format_hours(progress.used_h)} of device time"],
        _format_space(question),
        _format_failures(progress, names, links),
        _format_reused(progress, names),
        _format_commands(sweep),
    ]
    return truncate("\n\n".join("\n".join(lines) for lines in parts if lines))


def _describe_goal(question: Mapping[str, Any]) -> str:
    words = [f"Which point has the {'largest' if question['mode'] == 'max' else 'smallest'} `{question['metric']}`"]
    words += [f"strategy {question['strategy']['name']}"]
    words += [f"pruner {question['pruner']['name']}"] if question["pruner"] else []
    words += [f"{question['num_seeds']} seeds a point"] if question["num_seeds"] > 1 else []
    limits = [f"{key}={value}" for key, value in question["budget"].items() if value is not None]
    words += [f"budget {' '.join(limits)}"] if limits else []
    return ", ".join(words)


def _format_space(question: Mapping[str, Any]) -> list[str]:
    rows = [(key, text) for key, text in describe_axes(parse(question["space"])).items()]
    rows += [("points", " ".join(map(str, overrides))) for overrides in question["points"][:MAX_LISTED]]
    rows += [("base", " ".join(question["base"]))] if question["base"] else []
    return (
        ["| key | values |", "|---|---|", *(f"| `{key}` | {_format_cell(text)} |" for key, text in rows)]
        if rows
        else []
    )


def _format_best(progress: Progress, names: Mapping[str, str], links: Mapping[str, str]) -> list[str]:
    if (best := progress.best) is None:
        return []
    mean = f", the mean of {len(best.trials)} seeds" if len(best.trials) > 1 else ""
    of = ", ".join(_link_trial(trial, names, links) for trial in best.trials[:MAX_LISTED])
    return [f"**Best:** `{progress.metric}` {format_number(best.value)}{mean}, of {of}"]


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
    return [f"Results taken from other trials: {', '.join(reused[:MAX_LISTED])}{more}"] if reused else []


def _format_commands(sweep: Sweep) -> list[str]:
    folders, trust = run_tags.format_flags(sweep.provenance)
    name = shlex.quote(format_reference(sweep))
    return [
        "### Again",
        "",
        *run_tags.format_code(sweep.provenance),
        "",
        "```",
        shlex.join(["lathe", "sweep", *folders, *trust, "./sweep.yaml"]) + "  # of the artifacts",
        f"lathe resume {name}",
        f"lathe status {name}",
        "```",
    ]


def _link_trial(trial: str, names: Mapping[str, str], links: Mapping[str, str]) -> str:
    return f"[{names[trial]}]({links[trial]})" if trial in links else f"`{names[trial]}`"


def _format_cell(text: str) -> str:
    """Text in a cell of a table."""
    clean = " ".join(mask_password(text).split()).replace("`", "'").replace("|", "\\|")
    return f"`{truncate(clean, MAX_CELL)}`"
