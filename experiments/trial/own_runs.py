"""Decides which runs are the user's own: code and settings of other runs are used only with `--trust-code`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from experiments.core.errors import InputError
from experiments.core.runs_dir import choose_runs_dir
from launchers.ownership import find_foreign_owner

FILES = ("trial.yaml", "provenance.yaml", "sweep.yaml", "templates.json", "code")


def state_file() -> Path:
    """Lists the folders of runs that this user has used on this machine, one a line."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "lathe" / "runs_dirs"


def remember_runs_dir(runs_dir: Path) -> None:
    """Record that runs of this user are in a folder, so that a later command may name them by their path."""
    folder, path = str(runs_dir.resolve()), state_file()
    if "\n" in folder or folder in _remembered():
        return
    with contextlib.suppress(OSError):  # not remembered: a later command asks for --trust-code
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(f"{folder}\n")


def describe_foreign(folder: Path, runs_dir: Path) -> str | None:
    """Why the run or sweep in a folder may be another user's; None for the user's own."""
    real = folder.resolve()
    known = [runs_dir, choose_runs_dir(), *map(Path, _remembered())]
    if not any(real.is_relative_to(path.expanduser().resolve()) for path in known):
        return "is not in one of your folders of runs"
    owners = ((path, find_foreign_owner(path)) for path in _files(real) if not path.is_symlink())
    return next((f"is not yours alone, because {path} {owner}" for path, owner in owners if owner is not None), None)


def check_own(folder: Path, runs_dir: Path, *, trust_code: bool) -> None:
    """Refuse to use the code and the settings of another user's run.

    Args:
        folder: of the run or sweep.
        runs_dir: of the command.
        trust_code: the user allows it.

    Raises:
        InputError: it may be another user's.
    """
    if not trust_code and (reason := describe_foreign(folder, runs_dir)) is not None:
        raise InputError(
            [
                f"{folder} {reason}, and this command would run its code, or send data where its configuration says; "
                "add --trust-code if you trust its author"
            ]
        )


def _remembered() -> list[str]:
    try:
        return state_file().read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []


def _files(folder: Path) -> Iterator[Path]:
    """The files of a run, and of the sweep that it belongs to, that decide what runs."""
    for parent in (folder, folder.parent) if (folder.parent / "sweep.yaml").exists() else (folder,):
        yield parent
        for path in (parent / name for name in FILES):
            if path.exists():
                yield path
        yield from (parent / "code").rglob("*")
