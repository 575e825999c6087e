"""`lathe diff A B`: what two runs differ by, and how their metrics part."""

from __future__ import annotations

import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

from experiments.core.console import console
from experiments.core.errors import InputError
from experiments.core.format import as_json
from experiments.results.compare.code_changes import changed_files
from experiments.results.compare.differences import Differences, differences
from experiments.results.compare.subject import subject
from experiments.results.compare.tables import differences_table, files_text, streams_table, uncounted
from experiments.run.metric_comparison import Divergence, compare
from experiments.trial.record import CodeRecord


def diff(asked: Namespace) -> int:
    """Print what two runs differ by, and only that.

    Returns:
        0 where nothing that determines a result differs, and no metric by more than the tolerance; else 1.

    Raises:
        InputError: one of the two is nothing that can be compared.
    """
    if not (math.isfinite(asked.tolerance) and asked.tolerance >= 0):
        raise InputError([f"--tolerance {asked.tolerance} is no distance; write 0, 1e-6 or the like"])
    with ExitStack() as stack:
        one, other = (stack.enter_context(subject(word, asked)) for word in (asked.one, asked.other))
        found = differences(one, other)
        files = changed_files(one, other, asked.trust) if found.groups["code"] else []
    partings = _partings(one, other, asked.tolerance)
    apart = [part for part in partings if _differ(part)]
    code = 1 if found.any() or apart else 0
    if asked.json:
        print(as_json(_document(one, other, found, files, partings, code == 0)))
        return code
    _print(one, other, found, files, partings, apart)
    return code


def _partings(one: CodeRecord, other: CodeRecord, tolerance: float) -> list[Divergence]:
    """How the metrics of two that have run differ; a sampled record lacks steps by its nature."""
    if not one.streams or not other.streams:
        return []
    partings = compare(one.streams, other.streams, tolerance=tolerance)
    if one.is_sampled or other.is_sampled:
        kept = (other.is_sampled, one.is_sampled)
        return [
            replace(part, only_in=(part.only_in[0] * (not kept[0]), part.only_in[1] * (not kept[1])))
            for part in partings
        ]
    return partings


def _differ(part: Divergence) -> bool:
    return part.first_step is not None or part.only_in != (0, 0)


def _document(
    one: CodeRecord,
    other: CodeRecord,
    found: Differences,
    files: Sequence[str],
    partings: Sequence[Divergence],
    same: bool,
) -> dict[str, Any]:
    return {
        "one": {"name": one.name, "trial_id": one.trial_id, "run_key": one.run_key},
        "other": {"name": other.name, "trial_id": other.trial_id, "run_key": other.run_key},
        "same": same,
        "differences": {group: [asdict(row) for row in rows] for group, rows in found.groups.items()},
        "changed_files": list(files),
        "not_counted": [asdict(row) for row in found.uncounted],
        "unknown": found.unknown,
        "metrics": [asdict(part) for part in partings],
    }


def _print(
    one: CodeRecord,
    other: CodeRecord,
    found: Differences,
    files: Sequence[str],
    partings: Sequence[Divergence],
    apart: Sequence[Divergence],
) -> None:
    screen = console(sys.stdout)
    for letter, record in (("A", one), ("B", other)):
        screen.print(f"{letter}: {record.name}", highlight=False, markup=False)
    if found.any():
        screen.print(differences_table(found))
    if files:
        screen.print(files_text(files), style="dim", highlight=False, markup=False)
    if not found.any():
        screen.print("same configuration, code, environment, data, hardware and seeds", highlight=False)
    if found.uncounted:
        screen.print(uncounted(found.uncounted), style="dim", highlight=False, markup=False)
    if found.unknown:
        told = f"not told by both, so not compared: {', '.join(found.unknown)}"
        screen.print(told, style="dim", highlight=False, markup=False)
    without = [record.name for record in (one, other) if not record.streams]
    if without:
        told = f"no metrics to compare: {' and '.join(without)} {'has' if len(without) == 1 else 'have'} none"
        screen.print(told, highlight=False, markup=False)
        return
    if apart:
        screen.print(streams_table(apart))
    same = len(partings) - len(apart)
    if same:
        points = sum(part.num_common for part in partings if part not in apart)
        screen.print(f"{same} metrics are the same, {points:,} points", highlight=False)
