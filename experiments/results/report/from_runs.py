"""Collects the report of runs outside a sweep, from their configurations and journals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.core.errors import InputError, did_you_mean
from experiments.results.report.findings import Findings, ReportRun, group_by_point, hide_secrets
from experiments.results.report.metric_history import History, read_history
from experiments.run.metrics import delivered_name, delivered_value
from experiments.run.state import RunState, determine_state, is_process_alive
from experiments.trial.trial import EXCLUDED, Trial

MISSING = object()


def collect_from_runs(trials: Sequence[Trial]) -> Findings:
    """Collect the report of some runs.

    Raises:
        InputError: they have no metric in common.
    """
    histories = [read_history(trial.folder) for trial in trials]
    metric, mode = _choose_metric(trials, histories)
    differing = _name_options(trials, _find_differences([trial.config for trial in trials]))
    points: dict[str, int] = {}
    runs = []
    for trial, history, values in zip(trials, histories, differing, strict=True):
        point = points.setdefault(repr(sorted(values.items())), len(points))
        runs.append(_make_run(trial, history, hide_secrets(values), point, metric, mode))
    keys = sorted({key for values in differing for key in values})
    grouped = group_by_point(runs, mode)
    counts = Counter(run.state for run in runs)
    return Findings(
        kind="runs",
        name=", ".join(dict.fromkeys(str(trial.config["name"]) for trial in trials)),
        description="",
        goal=f"{len(runs)} runs, the {'largest' if mode == 'max' else 'smallest'} {delivered_name(metric)} first.",
        status=", ".join(f"{count} {state}" for state, count in counts.most_common()),
        metric=metric,
        mode=mode,
        short=_shorten_keys(keys),
        points=grouped,
        best=next((point for point in grouped if point.value is not None), None),
        opened=min((run.spans[1][0] for run in histories if 1 in run.spans), default=None),
        until=max((end for history in histories for _, end in history.spans.values()), default=None),
        elapsed_s=None,
        used_h=sum(run.used_h or 0.0 for run in runs),
        wasted_h=None,
        attempts=sum(run.attempts for run in runs),
        remarks=tuple(_make_remarks(runs)),
    )


def _make_run(trial: Trial, history: History, values: dict[str, Any], point: int, metric: str, mode: str) -> ReportRun:
    state = _determine_state(trial, history)
    step = max((series.last[0] for series in history.series.values() if series.last), default=0)
    return ReportRun(
        id=trial.folder.name,
        reference=trial.reference,
        point=point,
        values=values,
        seed=int(trial.config.get("seed") or 0),
        state=state.state,
        value=delivered_value(history.series, metric, mode),
        step=step,
        num_steps=trial.config.get("max_steps"),
        attempts=len(trial.attempts()),
        duration_s=history.duration_s or None,
        used_h=_compute_used_h(trial, history),
        wasted_h=None,
        ended=state.ended,
        reason=" ".join((state.reason or "").split()),
        series=history.series,
    )


def _determine_state(trial: Trial, history: History) -> RunState:
    last = history.state
    alive = last is not None and is_process_alive(last["host"], last["pid"], last["time"])
    times = [end for _, end in history.spans.values()]
    if last is None and trial.outcome() is None:
        return RunState("pending", 0, None, None)
    return determine_state(trial.outcome(), last, max(times, default=0.0), alive)


def _compute_used_h(trial: Trial, history: History) -> float | None:
    logged = history.series.get("cost/device_h")
    if logged is not None and logged.last is not None:
        return logged.last[1]
    hardware = trial.config.get("hardware") or {}
    counts = [hardware.get(key, 1) for key in ("nodes", "devices_per_node")]
    return history.duration_s * math.prod(count if isinstance(count, int) else 1 for count in counts) / 3600


def _choose_metric(trials: Sequence[Trial], histories: Sequence[History]) -> tuple[str, str]:
    """Choose the metric that ranks the runs: the one of their best checkpoint, else a loss that all runs have."""
    shared = [name for name in histories[0].series if all(name in history.series for history in histories)]
    best = [(trial.config.get("checkpoint") or {}) for trial in trials]
    choices = {(part.get("best_metric"), part.get("best_mode")) for part in best}
    if len(choices) == 1 and (first := choices.pop())[0] in shared:
        return str(first[0]), str(first[1])
    for name in [*(name for name in shared if name.startswith("val/")), *shared]:
        if "loss" in name:
            return name, "min"
    names = sorted({name for history in histories for name in history.series})
    empty = [trial.folder.name for trial, history in zip(trials, histories, strict=True) if not history.series]
    if empty:
        raise InputError([f"run '{name}' has no metrics yet; leave it out" for name in empty], "the report")
    raise InputError(
        [f"the runs have no loss or best metric in common; {did_you_mean('val/loss', names)}"], "the report"
    )


def _find_differences(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Find the leaves that are not the same in all configurations; names, paths and seeds do not count."""
    flat = [dict(_list_leaves(config)) for config in configs]
    keys = dict.fromkeys(key for leaves in flat for key in leaves)
    vary = [
        key for key in keys
        if any(leaves.get(key, MISSING) != flat[0].get(key, MISSING) for leaves in flat) and not _is_excluded(key)
    ]  # fmt: skip
    return [{key: leaves[key] for key in vary if key in leaves} for leaves in flat]


def _name_options(trials: Sequence[Trial], differing: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Replace the class of a group by the name of its option, as in ``parallel=async``.

    Keys that only some of these options have are left out, unless an override sets them.
    """
    target = "._target_"
    ends = (key.removesuffix(target) for values in differing for key in values if key.endswith(target))
    for group in sorted({end for end in ends if "." not in end}):
        classes = [str(values.get(group + target, "")) for values in differing]
        chosen = [_find_option(trial, group) for trial in trials]
        if None in chosen or len(set(zip(chosen, classes, strict=True))) > len(set(chosen)):
            chosen = [name.rpartition(".")[2] for name in classes]  # the class is more specific than the option
        overridden = {
            text.lstrip("+").partition("=")[0] for trial in trials for text in trial.provenance.get("overrides") or ()
        }
        keys = {key for values in differing for key in values if key.startswith(f"{group}.")} - overridden
        implied = {
            key for key in keys
            if any(key not in values for values in differing)
            and len({(name, repr(values.get(key))) for name, values in zip(chosen, differing, strict=True)}) == len(set(chosen))
        }  # fmt: skip
        differing = [
            {group: name, **{key: value for key, value in values.items() if key not in {*implied, group + target}}}
            for name, values in zip(chosen, differing, strict=True)
        ]
    return differing


def _find_option(trial: Trial, group: str) -> str | None:
    """Return the option of a group: from an override, else from the defaults; None if neither names one."""
    overrides = trial.provenance.get("overrides") or ()
    options = [text.partition("=")[2] for text in overrides if text.startswith(f"{group}=")]
    choices: dict[str, str | None] = trial.provenance.get("choices", {})
    return options[-1] if options else choices.get(group)


def _list_leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping) and (node or not key):
        for name, inner in node.items():
            yield from _list_leaves(inner, f"{key}.{name}".lstrip("."))
    else:
        yield key, node


def _is_excluded(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in (*EXCLUDED, "seed"))


def _shorten_keys(keys: Sequence[str]) -> dict[str, str]:
    """Shorten every key to as many of its last parts as make it unique."""
    ends = {key: [".".join(key.split(".")[-count:]) for count in range(1, key.count(".") + 2)] for key in keys}
    counts = Counter(end for candidates in ends.values() for end in candidates)
    return {key: next((end for end in candidates if counts[end] == 1), key) for key, candidates in ends.items()}


def _make_remarks(runs: Sequence[ReportRun]) -> list[str]:
    active = [run.id for run in runs if run.state in ("running", "pending")]
    failed = [run for run in runs if run.state in ("failed", "killed")]
    remarks = (
        [f"{', '.join(active)} {'is' if len(active) == 1 else 'are'} not finished; results may still change."]
        if active
        else []
    )
    return remarks + [f"{run.id} {run.state}: {run.reason or 'the reason is unknown'}." for run in failed]
