"""`lathe diff A B`: the differences between two runs, and where their metrics diverge."""

from __future__ import annotations

import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

from experiments.core.console import make_console
from experiments.core.errors import InputError
from experiments.core.format import to_json
from experiments.results.compare.code_changes import changed_files
from experiments.results.compare.differences import Differences, differences
from experiments.results.compare.metric_rows import MetricRow, make_rows, select_rows
from experiments.results.compare.subject import open_record
from experiments.results.compare.tables import BEST_NOTE, differences_table, files_text, metrics_table, uncounted_text
from experiments.run.metric_comparison import Divergence, compare
from experiments.trial.record import RunRecord


def diff(args: Namespace) -> int:
    """Print the differences between two runs.

    Returns:
        0 if everything that determines a result is the same, and all metrics are within the tolerance; else 1.

    Raises:
        InputError: one of the two cannot be differing or read.
    """
    if not (math.isfinite(args.tolerance) and args.tolerance >= 0):
        raise InputError([f"--tolerance {args.tolerance} is not a distance; write 0, 1e-6 or the like"])
    with ExitStack() as stack:
        one, other = (stack.enter_context(open_record(name, args)) for name in (args.one, args.other))
        differing = differences(one, other)
        files = changed_files(one, other, args.trust) if differing.groups["code"] else []
    rows = make_rows(one, other, _partings(one, other, args.tolerance))
    apart = [row.curve for row in rows if _differ(row.curve)]
    code = 1 if differing.any() or apart else 0
    if args.json:
        print(to_json(_document(one, other, differing, files, rows, code == 0)))
        return code
    _print(one, other, differing, files, rows, apart)
    return code


def _partings(one: RunRecord, other: RunRecord, tolerance: float) -> list[Divergence]:
    """How the metrics of two runs differ. Steps that a sampled record lacks do not count."""
    if not one.streams or not other.streams:
        return []
    partings = compare(one.streams, other.streams, tolerance=tolerance)
    if one.is_sampled or other.is_sampled:
        is_sampled = (other.is_sampled, one.is_sampled)
        return [
            replace(part, only_in=(part.only_in[0] * (not is_sampled[0]), part.only_in[1] * (not is_sampled[1])))
            for part in partings
        ]
    return partings


def _differ(part: Divergence) -> bool:
    return part.first_step is not None or part.only_in != (0, 0)


def _document(
    one: RunRecord,
    other: RunRecord,
    differing: Differences,
    files: Sequence[str],
    rows: Sequence[MetricRow],
    same: bool,
) -> dict[str, Any]:
    return {
        "one": {"name": one.name, "trial_id": one.trial_id, "run_key": one.run_key},
        "other": {"name": other.name, "trial_id": other.trial_id, "run_key": other.run_key},
        "same": same,
        "differences": {group: [asdict(row) for row in rows] for group, rows in differing.groups.items()},
        "changed_files": list(files),
        "not_counted": [asdict(row) for row in differing.uncounted],
        "unknown": differing.unknown,
        "metrics": [{**asdict(row.curve), "final": row.final, "best": row.best} for row in rows],
    }


def _print(
    one: RunRecord,
    other: RunRecord,
    differing: Differences,
    files: Sequence[str],
    rows: Sequence[MetricRow],
    apart: Sequence[Divergence],
) -> None:
    screen = make_console(sys.stdout)
    for letter, record in (("A", one), ("B", other)):
        screen.print(f"{letter}: {record.name}", highlight=False, markup=False)
    if differing.any():
        screen.print(differences_table(differing))
    if files:
        screen.print(files_text(files), style="dim", highlight=False, markup=False)
    if not differing.any():
        screen.print("same configuration, code, environment, data, hardware and seeds", highlight=False)
    if differing.uncounted:
        screen.print(uncounted_text(differing.uncounted), style="dim", highlight=False, markup=False)
    if differing.unknown:
        message = f"not compared, as only one of the two has it: {', '.join(differing.unknown)}"
        screen.print(message, style="dim", highlight=False, markup=False)
    without = [record.name for record in (one, other) if not record.streams]
    if without:
        message = f"no metrics to compare: {' and '.join(without)} {'has' if len(without) == 1 else 'have'} none"
        screen.print(message, highlight=False, markup=False)
        return
    if apart:
        screen.print(metrics_table(shown := select_rows(rows, apart)))
        if any(row.best != (None, None) for row in shown):
            screen.print(BEST_NOTE, style="dim", highlight=False, markup=False)
    same = len(rows) - len(apart)
    if same:
        points = sum(row.curve.num_common for row in rows if row.curve not in apart)
        screen.print(f"{same} metrics are the same, {points:,} points", highlight=False)
