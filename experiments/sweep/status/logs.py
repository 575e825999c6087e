"""Shows the output of a sweep's trials and workers, for `lathe logs`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from experiments.core.errors import InputError
from experiments.core.format import format_point
from experiments.run.journal import attempt_folders
from experiments.run.rank_reports import BACKGROUND_LOG, log_name
from experiments.sweep.ledger import ENDED, Entry, Ledger
from experiments.sweep.status.progress import warn_of_damage
from experiments.sweep.status.selection import select
from experiments.sweep.sweep import Sweep, format_reference

MAX_LINES = 20
MAX_BYTES = 1 << 16
MAX_LOGS = 20
POLL_S = 0.3


def show_logs(sweep: Sweep, args: argparse.Namespace) -> None:
    """Print the output of a sweep's trials.

    Raises:
        InputError: there is no such trial, attempt or rank.
    """
    ledger = sweep.ledger()
    entries = list(ledger.read().entries.values())
    warn_of_damage(ledger)
    if args.trial is not None:
        entries = select(ledger.state, [args.trial], format_reference(sweep))
    if args.workers:
        _show_workers(sweep, None if args.trial is None else entries)
    elif args.trial is not None and len(entries) == 1:
        _show_one(sweep, ledger, entries[0], args)
    else:
        _show_several(sweep, entries, args)


def _show_several(sweep: Sweep, entries: Sequence[Entry], args: argparse.Namespace) -> None:
    """Print the last lines of each trial, with its state; of the failed trials if none is named."""
    if args.follow or args.rank or args.attempt is not None:
        problem = f"{args.trial} selects {len(entries)} trials" if args.trial else "no trial is given"
        raise InputError([f"--follow, --attempt and --rank need one trial, but {problem}; add the id of a trial"])
    name = format_reference(sweep)
    chosen = [entry for entry in entries if args.trial or entry.state == "failed"]
    if not chosen:
        condition = f"is {args.trial}" if args.trial else "has failed"
        print(f"no trial of sweep {sweep.name} {condition}; `lathe logs {name} TRIAL` shows the output of a trial")
    for entry in chosen[:MAX_LOGS]:
        print(f"== {entry.id} ({format_point(entry.values)}), {_describe_state(entry)}")
        _print_last(sweep.folder / entry.id / "attempts" / str(entry.attempt) / log_name(0))
    if len(chosen) > MAX_LOGS:
        print(f"{len(chosen) - MAX_LOGS} more trials; `lathe logs {name} TRIAL` shows the output of a trial")


def _show_one(sweep: Sweep, ledger: Ledger, entry: Entry, args: argparse.Namespace) -> None:
    """Print the whole log of an attempt, and the trial's state."""
    folder = sweep.folder / entry.id
    attempt, path = choose_log(folder, f"trial {entry.id}", args, entry.attempt)
    if args.follow:
        attempt = _follow(ledger, entry.id, folder / "attempts", attempt, args)
    else:
        print_log(path)
    entry = ledger.read().entries[entry.id]
    state = _describe_state(entry) if attempt == entry.attempt else f"attempt {attempt} of {entry.attempt}"
    print(f"trial {entry.id}, {state}", file=sys.stderr)


def choose_log(run_folder: Path, name: str, args: argparse.Namespace, newest: int = 0) -> tuple[int, Path]:
    """The attempt and the log that the arguments name; the log need not exist yet.

    Args:
        run_folder: of the run.
        name: what an error calls the run.
        args: with `attempt` and `rank`.
        newest: number of an attempt that may have no folder yet.

    Raises:
        InputError: the run has no such attempt or rank.
    """
    known = [int(path.name) for path in attempt_folders(run_folder)]
    if args.attempt is not None and args.attempt not in known:
        hint = f"its attempts are {', '.join(map(str, known))}" if known else "it has not started yet"
        raise InputError([f"--attempt {args.attempt}: {name} has no such attempt; {hint}"])
    attempt = args.attempt or max([newest, *known])
    path = run_folder / "attempts" / str(attempt) / log_name(args.rank)
    if not args.rank and (shown := path.with_name(BACKGROUND_LOG)).exists():
        return attempt, shown
    if args.rank and not path.exists():
        ranks = sum(1 for _ in path.parent.glob("log*.txt"))
        hint = f"it has ranks 0 to {ranks - 1}" if ranks > 1 else "it has only rank 0"
        raise InputError([f"--rank {args.rank}: attempt {attempt} of {name} has no such rank; {hint}"])
    return attempt, path


def print_log(path: Path) -> None:
    """Print a whole log, if it exists."""
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                sys.stdout.write(line)
    sys.stdout.flush()


def _follow(ledger: Ledger, trial: str, folder: Path, attempt: int, args: argparse.Namespace) -> int:
    """Follow a log until the trial or the requested attempt ends, or the user interrupts; returns the last attempt."""
    file: IO[str] | None = None
    try:
        while True:
            entry = ledger.read().entries[trial]  # read before the log: if the trial has ended, the log is complete
            path = folder / str(attempt) / log_name(args.rank)
            if file is None and path.exists():
                file = path.open(encoding="utf-8", errors="replace")
            if file is not None:
                sys.stdout.write(file.read())
                sys.stdout.flush()
            has_ended = entry.attempt > attempt or entry.state != "running"
            if (entry.state in ENDED and entry.attempt == attempt) or (args.attempt is not None and has_ended):
                return attempt
            if entry.attempt > attempt:
                attempt = entry.attempt
                print(f"attempt {attempt} on {entry.host}", file=sys.stderr)
                if file is not None:
                    file.close()
                    file = None
            else:
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return attempt
    finally:
        if file is not None:
            file.close()


def _describe_state(entry: Entry) -> str:
    """The state of a trial after its last attempt."""
    attempt = f"attempt {entry.attempt}: " if entry.attempt else ""
    if entry.state == "cancelled" and entry.reason:
        return attempt + entry.reason
    detail = (
        f" on {entry.host}"
        if entry.state == "running"
        else f" (result reused from {entry.reused})" * bool(entry.reused)
    )
    reason = f": {', '.join(filter(None, [entry.failure, entry.reason]))}" if entry.failure or entry.reason else ""
    return f"{attempt}{entry.state}{detail}{reason}"


def _show_workers(sweep: Sweep, entries: Sequence[Entry] | None) -> None:
    """Print the last lines of workers; for some trials, of the workers that ran them last."""
    folder = sweep.folder / "workers"
    paths = sorted([*folder.glob("*.txt"), *folder.glob("*/log.txt")], key=lambda path: path.stat().st_mtime)
    if entries is not None:
        names = {entry.worker for entry in entries}
        paths = [path for path in paths if path.stem in names or path.parent.name in names]
    non_empty = [path for path in paths if path.stat().st_size]
    for path in non_empty[-MAX_LOGS:]:
        print(f"== {path.relative_to(sweep.folder)}")
        _print_last(path)
    if len(non_empty) > MAX_LOGS:
        print(f"{len(non_empty) - MAX_LOGS} older logs are in {folder}")
    if len(paths) > len(non_empty) or not paths:
        print(
            f"{len(paths) - len(non_empty)} of {len(paths)} worker logs are empty"
            if paths
            else "there are no worker logs yet"
        )


def _print_last(path: Path) -> None:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - MAX_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-MAX_LINES:]
    except FileNotFoundError:
        lines = ["(no output)"]
    print("\n".join([*lines, ""]))
