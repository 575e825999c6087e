"""Formats the progress of a sweep: values, times, counts, reasons, and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.core.format import format_number, format_point
from experiments.run.annotations import read_annotations
from experiments.run.metrics import delivered_name
from experiments.sweep.status.progress import BestPoint, Progress, TrialRow

MIN_KEY_LENGTH = 3


def find_short_keys(rows: Iterable[TrialRow]) -> dict[str, str]:
    """The shortest unique ending of each key."""
    keys = list(dict.fromkeys(key for row in rows for key in row.values))
    endings = {}
    for key in keys:
        parts = key.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        endings[key] = next(
            end
            for end in ends
            if end == key or not any(f".{other}".endswith(f".{end}") for other in keys if other != key)
        )
    return endings


def list_annotations(progress: Progress) -> Iterator[tuple[str, str]]:
    """The note and the tags that the user gave to a sweep."""
    annotations = read_annotations(Path(progress.folder))
    if annotations.note:
        yield "note", annotations.note
    if tags := annotations.apply_to_tags({}):
        yield "tags", format_point(tags)


def fit_keys(rows: Sequence[TrialRow], short: Mapping[str, str], width: int) -> Mapping[str, str]:
    """Shorten keys so that all values fit into a width."""
    names = short
    for length in range(max(map(len, short.values()), default=0), MIN_KEY_LENGTH, -1):
        names = {key: name if len(name) <= length else f"{name[: length - 1]}…" for key, name in short.items()}
        if max((len(format_point(row.values, names)) for row in rows), default=0) <= width:
            break
    return names


def format_best(progress: Progress, best: BestPoint) -> str:
    """The best value of the metric and its point."""
    point = f" at {format_point(best.values)}" if best.values else ""
    return f"{delivered_name(progress.metric)} {format_number(best.value)}{point}{describe_mean(progress, best)}"


def describe_mean(progress: Progress, best: BestPoint) -> str:
    """Such as ``, the mean of 3 seeds, ± 0.02 at 95 % confidence``; "" with one trial."""
    if best.half_width is None:
        return ""
    noun = f"trials over {', '.join(progress.average_over)}" if progress.average_over else "seeds"
    return f", the mean of {len(best.trials)} {noun}, ± {best.half_width:.2g} at 95 % confidence"


def describe_repeats(spec: Mapping[str, Any]) -> list[str]:
    """How many trials a point has, for the description of a sweep; empty with one."""
    parts = [f"{spec['num_seeds']} seeds per point"] if spec["num_seeds"] > 1 else []
    return [*parts, f"the mean over {', '.join(spec['average_over'])}"] if spec["average_over"] else parts


def format_counts(progress: Progress) -> str:
    """Number of trials by state: ``7/18 done, 2 running, 8 pending, 1 failed``."""
    counts = progress.counts
    pruned = f" ({counts['pruned']} of them pruned)" if counts["pruned"] else ""
    parts = [f"{progress.done}/{progress.total} done{pruned}"]
    parts += [f"{counts[state]} {state}" for state in ("running", "pending", "failed", "cancelled") if counts[state]]
    parts += [f"{progress.to_ask} not chosen yet"] if progress.to_ask else []
    return ", ".join(parts)


def format_progress(progress: Progress) -> str:
    """Counts and best point in one line."""
    return format_counts(progress) + (f", best {format_best(progress, progress.best)}" if progress.best else "")


def format_reason(row: TrialRow) -> str:
    """Why a trial is in its state, in one line."""
    if row.reused:
        return f"result reused from {row.reused}"
    if row.state in ("finished", "running"):
        return ""
    reason = " ".join((row.reason or "").split())
    return (
        f"{row.failure}: {reason}"
        if row.failure and reason and row.failure not in reason
        else reason or row.failure or ""
    )


def find_short_ids(rows: Sequence[TrialRow]) -> dict[str, str]:
    """The shortest unique beginnings of trial ids."""
    names = sorted(row.id for row in rows)
    prefixes = {}
    for name, before, after in zip(names, ["", *names], [*names[1:], ""], strict=False):
        length = next(
            (
                count for count in range(6, len(name))
                if not before.startswith(name[:count]) and not after.startswith(name[:count])
            ),
            len(name),
        )  # fmt: skip
        prefixes[name] = name[:length]
    return prefixes


def describe_changes(before: Progress, now: Progress) -> Iterator[str]:
    """One line for each trial that failed or was interrupted between two reads."""
    known = {row.id: (row.state, row.attempt) for row in before.rows}
    for row in now.rows:
        if row.failure and row.state != "cancelled" and known.get(row.id) != (row.state, row.attempt):
            then = "failed" if row.state == "failed" else "was interrupted and is pending again"
            yield f"trial {row.id} ({format_point(row.values)}) {then}: {format_reason(row)}"
