"""Lists the files that differ between two states of a checkout, uncommitted changes included, without checking them out."""

from __future__ import annotations

import gzip
import os
import tarfile
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.core.git import GitError, git, has_commit
from experiments.trial.code_restore import SHA, find_checkouts
from experiments.trial.record import RunRecord


def changed_files(one: RunRecord, other: RunRecord, trust: Sequence[str]) -> list[str]:
    """One line per differing file, as `git diff --stat` prints it; no lines for a checkout whose commits are missing here."""
    lines: list[str] = []
    for number, here in enumerate(find_checkouts(trust)):
        pair = [_entry(record, number, here.root.name) for record in (one, other)]
        first, second = pair
        if first is None or second is None or first["sha256"] == second["sha256"]:
            continue
        try:
            with tempfile.TemporaryDirectory(prefix="lathe-trees-") as scratch:
                trees = [
                    _tree(here.root, entry, record.code_folder, Path(scratch))
                    for entry, record in ((first, one), (second, other))
                ]
                lines += _stat(here.root, trees, Path(scratch))
        except (GitError, OSError, EOFError, zlib.error, tarfile.TarError):
            continue  # the table of differences has the checkout anyway
    return lines


def _entry(record: RunRecord, number: int, name: str) -> Mapping[str, Any] | None:
    """The entry of a record for Lathe's own checkout (number 0), or for another checkout of this name."""
    entries = record.code[:1] if number == 0 else [entry for entry in record.code[1:] if entry["name"] == name]
    return next((entry for entry in entries if SHA.fullmatch(str(entry.get("git_sha")))), None)


def _tree(root: Path, entry: Mapping[str, Any], files: Path | None, scratch: Path) -> str:
    """Write a state of a checkout into the scratch folder, as a tree object of git.

    Raises:
        GitError: the commit is missing here, or the patch does not apply to it.
    """
    if not has_commit(root, entry["git_sha"]):
        raise GitError(f"{entry['git_sha']} is missing")
    env = _apart(root, scratch) | {"GIT_INDEX_FILE": str(scratch / f"index-{entry['sha256']}")}
    git(root, "read-tree", entry["git_sha"], env=env)
    if files is not None and entry.get("diff"):
        patch = (files / Path(entry["diff"]).name).read_bytes()
        git(root, "apply", "--cached", "--binary", "--whitespace=nowarn", "-", env=env, stdin=patch)
    if files is not None and entry.get("untracked"):
        lines = _untracked(root, files / Path(entry["untracked"]).name, env)
        git(root, "update-index", "-z", "--index-info", env=env, stdin=lines)
    return git(root, "write-tree", env=env).decode().strip()


def _apart(root: Path, scratch: Path) -> dict[str, str]:
    """Environment variables with which git writes new objects into a scratch folder instead of the checkout."""
    own = os.fsdecode(git(root, "rev-parse", "--path-format=absolute", "--git-path", "objects")).strip()
    (scratch / "objects").mkdir(exist_ok=True)
    return {"GIT_OBJECT_DIRECTORY": str(scratch / "objects"), "GIT_ALTERNATE_OBJECT_DIRECTORIES": own}


def _untracked(root: Path, packed: Path, env: Mapping[str, str]) -> bytes:
    """Input for `git update-index` that adds the files of an archive."""
    lines = b""
    with gzip.open(packed) as unpacked, tarfile.open(fileobj=unpacked) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            content = file.read() if file else os.fsencode(member.linkname)
            blob = git(root, "hash-object", "-w", "--stdin", env=env, stdin=content).decode().strip()
            mode = "120000" if member.issym() else "100755" if member.mode & 0o100 else "100644"
            lines += f"{mode} {blob}\t".encode() + os.fsencode(member.name) + b"\0"
    return lines


def _stat(root: Path, trees: Sequence[str], scratch: Path) -> list[str]:
    """The lines of `git diff --stat`, the summary first."""
    output = git(
        root, "diff", "--stat=100", "--no-color", "--no-ext-diff", "--no-textconv", *trees, env=_apart(root, scratch)
    )
    lines = [line.strip() for line in output.decode(errors="replace").splitlines()]
    return [*lines[-1:], *lines[:-1]]
