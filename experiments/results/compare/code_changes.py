"""Which files two states of a checkout differ by, what was not committed included; nothing is checked out for it."""

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
from experiments.trial.code_restore import SHA, checkouts
from experiments.trial.record import CodeRecord


def changed_files(one: CodeRecord, other: CodeRecord, trust: Sequence[str]) -> list[str]:
    """A line a file that differs, as `git diff --stat` has it; none of checkouts whose commits are not here."""
    found: list[str] = []
    for number, here in enumerate(checkouts(trust)):
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
                found += _stat(here.root, trees, Path(scratch))
        except (GitError, OSError, EOFError, zlib.error, tarfile.TarError):
            continue  # that the code differs is told anyway
    return found


def _entry(record: CodeRecord, number: int, name: str) -> Mapping[str, Any] | None:
    """What a record says of the house's checkout, or of another of this name."""
    entries = record.code[:1] if number == 0 else [entry for entry in record.code[1:] if entry["name"] == name]
    return next((entry for entry in entries if SHA.fullmatch(str(entry.get("git_sha")))), None)


def _tree(root: Path, entry: Mapping[str, Any], files: Path | None, scratch: Path) -> str:
    """Write a state of a checkout as a tree of git's, into the scratch folder.

    Raises:
        GitError: the commit is not here, or the patch does not fit it.
    """
    if not has_commit(root, entry["git_sha"]):
        raise GitError(f"{entry['git_sha']} is not here")
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
    """Environment in which git writes new objects into a scratch folder, and the checkout stays as it is."""
    own = os.fsdecode(git(root, "rev-parse", "--path-format=absolute", "--git-path", "objects")).strip()
    (scratch / "objects").mkdir(exist_ok=True)
    return {"GIT_OBJECT_DIRECTORY": str(scratch / "objects"), "GIT_ALTERNATE_OBJECT_DIRECTORIES": own}


def _untracked(root: Path, packed: Path, env: Mapping[str, str]) -> bytes:
    """Lines that add the files of an archive to an index."""
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
    """A line a file, without the last, which sums up."""
    told = git(
        root, "diff", "--stat=100", "--no-color", "--no-ext-diff", "--no-textconv", *trees, env=_apart(root, scratch)
    )
    lines = [line.strip() for line in told.decode(errors="replace").splitlines()]
    return [*lines[-1:], *lines[:-1]]
