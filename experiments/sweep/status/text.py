"""Formats the progress of a sweep: values, times, counts, reasons, and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from experiments.core.format import format_number, format_point
from experiments.sweep.status.progress import BestPoint, Progress, TrialRow

LEAST_OF_A_KEY = 3


def short_keys(rows: Iterable[TrialRow]) -> dict[str, str]:
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


def fitting_keys(rows: Sequence[TrialRow], short: Mapping[str, str], width: int) -> Mapping[str, str]:
    """Shorten keys so that all values fit into a width."""
    names = short
    for most in range(max(map(len, short.values()), default=0), LEAST_OF_A_KEY, -1):
        names = {key: name if len(name) <= most else f"{name[: most - 1]}…" for key, name in short.items()}
        if max((len(format_point(row.values, names)) for row in rows), default=0) <= width:
            break
    return names


def best_text(progress: Progress, best: BestPoint) -> str:
    """The best point, its value and how to select its trials."""
    seeds = f", the mean of {len(best.trials)} seeds" if len(best.trials) > 1 else ""
    where = f" at {format_point(best.values)}" if best.values else ""
    return f"{progress.metric} {format_number(best.value)}{where}{seeds}"


def counts_text(progress: Progress) -> str:
    """Number of trials by state: ``7/18 done, 2 running, 8 pending, 1 failed``."""
    counts = progress.counts
    parts = [f"{progress.done}/{progress.total} done"]
    parts += [f"{counts[state]} {state}" for state in ("running", "pending", "failed", "cancelled") if counts[state]]
    parts += [f"{progress.to_ask} to be chosen"] if progress.to_ask else []
    parts += [f"{counts['pruned']} of the done pruned"] if counts["pruned"] else []
    return ", ".join(parts)


def line(progress: Progress) -> str:
    """Counts and best point in one line."""
    return counts_text(progress) + (f", best {best_text(progress, progress.best)}" if progress.best else "")


def why(row: TrialRow) -> str:
    """Why a trial is in its state, in one line."""
    if row.reused:
        return f"the result of {row.reused}"
    if row.state in ("finished", "running"):
        return ""
    reason = " ".join((row.reason or "").split())
    return (
        f"{row.failure}: {reason}"
        if row.failure and reason and row.failure not in reason
        else reason or row.failure or ""
    )


def short_ids(rows: Sequence[TrialRow]) -> dict[str, str]:
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
