"""`lathe gc`: finishes interrupted removals and deletes what is no longer needed."""

from __future__ import annotations

import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from experiments.core.atomic import is_unused_partial
from experiments.core.console import make_console
from experiments.core.errors import InputError
from experiments.core.format import format_bytes, to_json
from experiments.results.remove.dependents import find_dependents
from experiments.results.remove.removal import UnfinishedError, finish, list_unfinished, move_away
from experiments.results.remove.rm import NOTHING_DELETED
from experiments.results.remove.targets import FolderSize, is_locked, measure_files
from experiments.results.search.index import Index, IndexedRun
from experiments.run.checkpoint import Checkpoints
from experiments.trial.lookup import check_runs_dir
from experiments.trial.own_runs import describe_foreign

ENDED = ("finished", "failed", "interrupted", "killed", "pruned", "cancelled")
DAY_S = 86_400.0


@dataclass(frozen=True)
class Garbage:
    """One thing to delete."""

    kind: str
    path: str
    files: FolderSize
    delete: Callable[[], list[str]] = field(repr=False)
    """Returns a line for each thing that remains elsewhere."""


def gc(args: Namespace) -> int:
    """Show what would be deleted; with `--yes`, delete it.

    Returns:
        0; 1 if something could not be deleted.

    Raises:
        InputError: there is no folder of runs, or a number is wrong.
    """
    if args.failed is not None and args.failed < 0:
        raise InputError([f"--failed {args.failed:g} is not a number of days; write for example `--failed 30`"])
    runs_dir = Path(args.runs_dir)
    check_runs_dir(runs_dir)
    runs_dir = runs_dir.resolve()
    garbage = list(find_garbage(runs_dir, args))
    total = sum((one.files for one in garbage), FolderSize())
    if garbage and not args.json:
        _print(garbage)
    remaining, failures = list[str](), list[str]()
    for one in garbage if args.yes else ():
        try:
            remaining += one.delete()
        except (UnfinishedError, InputError, OSError) as err:
            failures += err.problems if isinstance(err, InputError) else [str(err)]
    if args.json:
        found = [{"kind": one.kind, "path": one.path, "files": one.files} for one in garbage]
        print(
            to_json(
                {
                    "is_deleted": args.yes and not failures,
                    "garbage": found,
                    "remaining": remaining,
                    "failures": failures,
                }
            )
        )
    elif not garbage:
        print(f"nothing to delete in {args.runs_dir}")
    else:
        print(
            f"{total.num_files:,} files, {format_bytes(total.size_bytes)}"
            + ("" if args.yes else f"; {NOTHING_DELETED}")
        )
    for line in (*remaining, *failures):
        print(line, file=sys.stderr)
    return 1 if failures else 0


def find_garbage(runs_dir: Path, args: Namespace) -> Iterator[Garbage]:
    """Find what to delete: always what killed processes left; the rest as the arguments say."""
    for place in list_unfinished(runs_dir):
        names = ", ".join(sorted(path.name for path in place.iterdir())) or "nothing"
        delete = partial(finish, place, keep_mlflow=args.keep_mlflow)
        yield Garbage(f"unfinished removal of {names}", str(place), measure_files(place), delete)
    index = Index(runs_dir)
    ended = [run for run in index.runs() if run.state in ENDED and _is_own(run.folder, runs_dir)]
    for damage in index.damaged:
        print(f"warning: {damage}", file=sys.stderr)
    for folder in (
        runs_dir,
        *sorted({run.folder.parent for run in ended if run.sweep}),
        *(run.folder for run in ended),
    ):
        yield from _find_partials(folder)
    failed = [] if args.failed is None else [run for run in ended if _has_failed_early(run, args.failed)]
    dependents = find_dependents([run.folder for run in failed], runs_dir) if failed else {}
    failed = [run for run in failed if not dependents[run.folder]]
    for run in failed:
        delete = partial(_remove, run.folder, runs_dir, args.keep_mlflow)
        yield Garbage(f"{run.state} run without a step", str(run.folder), measure_files(run.folder), delete)
    for run in ended:
        if run not in failed:
            yield from _find_checkpoints(run.folder, extra=args.checkpoints)


def _is_own(folder: Path, runs_dir: Path) -> bool:
    """Whether a run is the user's, in the folder of the runs itself, and no process works on it."""
    has_link = folder.is_symlink() or folder.parent.is_symlink()
    return not has_link and describe_foreign(folder, runs_dir) is None and not is_locked(folder)


def _has_failed_early(run: IndexedRun, days: float) -> bool:
    """Whether a run that belongs to no sweep has ended without a step, and longer ago than some days."""
    last = run.entry["last"] or {}
    is_old = max(run.created, run.entry["last_time"]) < time.time() - days * DAY_S
    return (
        run.sweep is None and run.state != "finished" and is_old and not run.entry["metrics"] and not last.get("step")
    )


def _find_partials(folder: Path) -> Iterator[Garbage]:
    """Files of atomic writes whose writer was killed."""
    for path in sorted(folder.glob(".*.partial")):
        if path.is_file() and not path.is_symlink() and is_unused_partial(path):
            yield Garbage("temporary file", str(path), FolderSize(1, path.stat().st_size), partial(_unlink, path))


def _unlink(path: Path) -> list[str]:
    path.unlink(missing_ok=True)
    return []


def _remove(folder: Path, runs_dir: Path, keep_mlflow: bool) -> list[str]:
    return finish(move_away(folder, runs_dir), keep_mlflow=keep_mlflow)


def _find_checkpoints(run_folder: Path, *, extra: bool) -> Iterator[Garbage]:
    """Incomplete checkpoints; and with ``extra`` the complete ones that are neither the newest nor the best."""
    checkpoints = Checkpoints(run_folder, keep_last=1)
    if checkpoints.folder.is_symlink():
        return
    paths = [(path, "incomplete checkpoint") for path in sorted(checkpoints.folder.glob(".partial-*"))]
    if extra:
        paths += [(path, "checkpoint") for path in checkpoints.list_unneeded()]
    for path, kind in paths:
        if path.is_dir() and not path.is_symlink():
            yield Garbage(kind, str(path), measure_files(path), partial(_remove_checkpoint, path))


def _remove_checkpoint(path: Path) -> list[str]:
    run_folder = path.parent.parent
    if is_locked(run_folder):
        raise InputError([f"{path} stays: run '{run_folder.name}' has been started meanwhile"])
    if not path.name.startswith("."):  # a crash between two files must not leave a folder that looks like a checkpoint
        path = path.rename(path.with_name(f".partial-{path.name}-removed"))
    with suppress(FileNotFoundError):
        shutil.rmtree(path)
    return []


def _print(garbage: list[Garbage]) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in ("delete", "files", "size", "path"):
        table.add_column(heading, justify="right" if heading in ("files", "size") else "left", overflow="fold")
    for one in garbage:
        table.add_row(
            *map(escape, (one.kind, f"{one.files.num_files:,}", format_bytes(one.files.size_bytes), one.path))
        )
    make_console().print(table)
