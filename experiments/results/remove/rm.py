"""`lathe rm`: deletes runs and sweeps, with their checkpoints and their MLflow runs."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from experiments.core.console import make_console
from experiments.core.errors import InputError
from experiments.core.files.paths import user_path
from experiments.core.format import format_bytes, to_json
from experiments.results.manage.find import find_run_or_sweep
from experiments.results.remove.dependents import find_dependents
from experiments.results.remove.removal import UnfinishedError, finish, move_away
from experiments.results.remove.targets import RemovalTarget, describe_target
from experiments.sweep.sweep import Sweep

NOTHING_DELETED = "nothing is deleted yet; --yes deletes it"


def rm(args: Namespace) -> int:
    """Show what would be deleted; with `--yes`, delete it.

    Returns:
        0; 1 if something could not be deleted.

    Raises:
        InputError: a name is wrong, or a run or sweep may not be deleted; then nothing is deleted.
    """
    runs_dir = Path(args.runs_dir)
    targets = _find_targets(args.names, runs_dir, force=args.force)
    if not args.json:
        _print_targets(targets, keep_mlflow=args.keep_mlflow)
    _check(targets, runs_dir, force=args.force)
    remaining, failures = list[str](), list[str]()
    for target in targets if args.yes else ():
        try:
            remaining += remove_target(target, runs_dir, keep_mlflow=args.keep_mlflow)
        except (UnfinishedError, InputError) as err:
            failures += err.problems if isinstance(err, InputError) else [str(err)]
    if args.json:
        print(
            to_json(
                {
                    "is_deleted": args.yes and not failures,
                    "targets": targets,
                    "remaining": remaining,
                    "failures": failures,
                }
            )
        )
    elif not args.yes:
        print(NOTHING_DELETED)
    for line in (*remaining, *failures):
        print(line, file=sys.stderr)
    return 1 if failures else 0


def remove_target(target: RemovalTarget, runs_dir: Path, *, keep_mlflow: bool) -> list[str]:
    """Delete one run or sweep; returns a line for each thing that remains elsewhere.

    Raises:
        InputError: it is running now, or cannot be written; it is as it was.
        UnfinishedError: a part of it is left; `lathe gc` deletes it.
    """
    place = move_away(target.folder, runs_dir.resolve())
    remaining = finish(place, keep_mlflow=keep_mlflow)
    copies = [f"{target.name}: its copy in the tracker '{label}' stays" for label in target.other_trackers]
    return [*remaining, *copies]


def _find_targets(names: Sequence[str], runs_dir: Path, *, force: bool) -> list[RemovalTarget]:
    targets: dict[Path, RemovalTarget] = {}
    problems = list[str]()
    for name in names:
        try:
            found = find_run_or_sweep(name, runs_dir)
            if isinstance(found, Sweep) and user_path(name).name != found.folder.name:
                # After the removal of `lr`, a second one must not find `lr2`.
                raise InputError(
                    [f"'{name}' is only the beginning of a name; write `{found.folder.name}` to delete that sweep"]
                )
            targets[found.folder] = describe_target(found, runs_dir, force=force)
        except InputError as err:
            problems += err.problems
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return list(targets.values())


def _check(targets: Sequence[RemovalTarget], runs_dir: Path, *, force: bool) -> None:
    problems = [problem for target in targets for problem in target.problems]
    dependents = {} if force else find_dependents([target.folder for target in targets], runs_dir.resolve())
    for target in targets:
        if lines := dependents.get(target.folder):
            more = f" and {len(lines) - 5} more" if len(lines) > 5 else ""
            problems.append(
                f"{target.kind} '{target.name}' is the origin of others: {', '.join(lines[:5])}{more}; delete those too, or add "
                "--force (they have their own copies of the weights)"
            )
    if problems:
        raise InputError(problems)


def _print_targets(targets: Sequence[RemovalTarget], *, keep_mlflow: bool) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in ("delete", "state", "files", "size", "MLflow"):
        table.add_column(heading, justify="right" if heading in ("files", "size") else "left", overflow="fold")
    for target in targets:
        what = f"{target.kind} {target.name}" + (f" with {target.num_trials} trials" if target.kind == "sweep" else "")
        shared = f" ({format_bytes(target.files.shared_bytes)} shared)" if target.files.shared_bytes else ""
        size = f"{format_bytes(target.files.size_bytes)}{shared}"
        table.add_row(
            *map(escape, (what, target.state, f"{target.files.num_files:,}", size, _format_mlflow(target, keep_mlflow)))
        )
    make_console().print(table)


def _format_mlflow(target: RemovalTarget, keep_mlflow: bool) -> str:
    if not target.mlflow_runs:
        return "nothing"
    runs = "1 run" if target.mlflow_runs == 1 else f"{target.mlflow_runs:,} runs"
    size = f" with {format_bytes(target.mlflow_bytes)} of artifacts" if target.mlflow_bytes else ""
    where = f" in {target.store}" if target.store else ""
    return f"{runs}{size}{where}{' (kept)' * keep_mlflow}"
