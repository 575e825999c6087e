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
from experiments.run.rank_reports import log_name
from experiments.sweep.ledger import ENDED, Entry, Ledger
from experiments.sweep.status.progress import warn_of_damage
from experiments.sweep.status.selection import select
from experiments.sweep.sweep import Sweep, find_sweep, format_reference
from launchers.base import DONE

MAX_LINES = 20
MAX_BYTES = 1 << 16
MAX_LOGS = 20
POLL_S = 0.3


def logs(args: argparse.Namespace) -> int:
    """Run `lathe logs`.

    Raises:
        InputError: there is no such sweep, trial, attempt or rank.
    """
    sweep = find_sweep(args.sweep, Path(args.runs_dir))
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
    return DONE


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
    folder = sweep.folder / entry.id / "attempts"
    known = [int(path.name) for path in attempt_folders(folder.parent)]
    if args.attempt is not None and args.attempt not in known:
        hint = f"its attempts are {', '.join(map(str, known))}" if known else "it has not started yet"
        raise InputError([f"--attempt {args.attempt}: trial {entry.id} has no such attempt; {hint}"])
    attempt = args.attempt or max([entry.attempt, *known])
    path = folder / str(attempt) / log_name(args.rank)
    if args.rank and not path.exists():
        ranks = sum(1 for _ in path.parent.glob("log*.txt"))
        hint = f"it has ranks 0 to {ranks - 1}" if ranks > 1 else "it has only rank 0"
        raise InputError([f"--rank {args.rank}: attempt {attempt} of trial {entry.id} has no such rank; {hint}"])
    if args.follow:
        attempt = _follow(ledger, entry.id, folder, attempt, args)
    elif path.exists():
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                sys.stdout.write(line)
    sys.stdout.flush()
    entry = ledger.read().entries[entry.id]
    state = _describe_state(entry) if attempt == entry.attempt else f"attempt {attempt} of {entry.attempt}"
    print(f"trial {entry.id}, {state}", file=sys.stderr)


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
