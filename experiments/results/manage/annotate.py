"""`lathe tag`, `lathe note` and `lathe rename`: what a user says about a run or a sweep after its start."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.core.errors import InputError, did_you_mean
from experiments.core.format import format_point
from experiments.results.manage.find import find_run_or_sweep
from experiments.run.annotations import Annotations, change_annotations, read_annotations
from experiments.sweep.sweep import Sweep
from experiments.sweep.templates import read_templates
from experiments.trial.own_runs import describe_foreign
from experiments.trial.parameters import MAX_KEY, clean_key
from experiments.trial.trial import Trial

RESERVED = ("mlflow.", "lathe.", "git.")
"""Beginnings of the tags that Lathe and MLflow set."""


def tag(args: Namespace) -> int:
    """Show, add, replace and remove tags.

    Raises:
        InputError: there is no such run or sweep, or a tag is wrong; then nothing changes.
    """
    target, runs_dir = find_run_or_sweep(args.target, Path(args.runs_dir)), Path(args.runs_dir)
    before = _read_tags(target)
    changes = _parse_tags(args.tags, args.remove, before)
    if changes:
        _change(target, runs_dir, lambda known: replace(known, tags={**known.tags, **changes}))
    print(format_point(_read_tags(target)) or f"{target.folder.name} has no tags")
    return 0


def note(args: Namespace) -> int:
    """Show or replace the note.

    Raises:
        InputError: there is no such run or sweep.
    """
    target, runs_dir = find_run_or_sweep(args.target, Path(args.runs_dir)), Path(args.runs_dir)
    if args.text is not None:
        _change(target, runs_dir, lambda known: replace(known, note=args.text.strip() or None))
    print(read_annotations(target.folder).note or f"{target.folder.name} has no note")
    return 0


def rename(args: Namespace) -> int:
    """Give a run another name. Its folder, by which sweeps and other runs know it, stays.

    Raises:
        InputError: there is no such run, or it is a sweep.
    """
    target, runs_dir = find_run_or_sweep(args.run, Path(args.runs_dir)), Path(args.runs_dir)
    if isinstance(target, Sweep):
        raise InputError(
            [
                f"'{args.run}' is a sweep, whose name is its folder, by which its trials and workers find it; describe it with "
                f"`lathe note {target.name} TEXT`"
            ]
        )
    name = args.name.strip()
    if not name.isprintable():
        raise InputError([f"{name!r} has letters that cannot be printed; write a name in one line"])
    _change(target, runs_dir, lambda known: replace(known, name=name))
    print(f"run {target.folder.name} is now called '{name}'")
    return 0


def _read_tags(target: Trial | Sweep) -> dict[str, Any]:
    config = read_templates(target.folder)[0]["config"] if isinstance(target, Sweep) else target.config
    return read_annotations(target.folder).apply_to_tags(config.get("tags"))


def _parse_tags(words: list[str], removed: list[str], known: dict[str, Any]) -> dict[str, str | None]:
    """The changes that `key=value` and `--remove key` ask for."""
    problems, changes = list[str](), dict[str, str | None]()
    for word in words:
        key, equals, value = word.partition("=")
        key = key.removeprefix("tags.")
        if not equals:
            problems.append(f"{word} has no value; write for example `{word}=yes`, or `--remove {word}`")
        elif not key or key != clean_key(key) or len(key) > MAX_KEY:
            problems.append(
                f"{word}: {key!r} is not a name of a tag; use letters, digits, `_`, `-`, `.`, `/` and spaces"
            )
        elif key.startswith(RESERVED):
            problems.append(
                f"{word}: Lathe and MLflow set the tags that begin with {key.partition('.')[0]}.; choose another"
            )
        else:
            changes[key] = value
    for key in removed:
        if key not in known:
            hint = did_you_mean(key, list(known)) if known else "it has no tags"
            problems.append(f"--remove {key}: there is no such tag; {hint}")
        changes[key] = None
    if problems:
        raise InputError(problems)
    return changes


def _change(target: Trial | Sweep, runs_dir: Path, change: Callable[[Annotations], Annotations]) -> None:
    """Record a change in the folder, and copy it to the trackers that have the run."""
    if (reason := describe_foreign(target.folder, runs_dir)) is not None:
        raise InputError([f"{target.folder} {reason}; ask its owner to change it"])
    try:
        change_annotations(target.folder, change)
    except OSError as err:
        raise InputError([f"{target.folder} cannot be written: {err.strerror}; make it writable"]) from err
    if not any(target.folder.glob("sync*.json")):
        return  # the first sync copies it
    from experiments.tracking.sweep_sync import sync_all

    for line in sync_all(target.runs_dir, [str(target.folder)]).failures:
        print(f"warning: it is recorded, but {line}", file=sys.stderr)
