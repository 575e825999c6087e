"""Restores the code of a run: the commit of each checkout in a temporary worktree, plus its uncommitted changes."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import re
import signal
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.core.errors import InputError
from experiments.core.files.packages import IMPORT_ROOT, PROJECT_ROOT, find_package
from experiments.core.git import GitError, find_checkout, git, has_commit, is_merged
from experiments.trial.code_snapshot import (
    MAX_SNAPSHOT_MB,
    digest_folder,
    find_checkout_root,
    find_package_folder,
    find_root,
    take_snapshot,
)

MAX_BYTES = int(5 * MAX_SNAPSHOT_MB * 1e6)
"""Limit of an unpacked archive of untracked files: the limit of a snapshot, plus headers of many small files."""
SHA = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


@dataclass(frozen=True)
class Checkout:
    """A git checkout, or a plain folder of code, on this machine."""

    root: Path
    on_path: tuple[Path, ...]
    """Its folders from which packages are imported."""


@dataclass
class RestoredCode:
    """The code of a run on this machine."""

    on_path: list[Path] = field(default_factory=list)
    """First entries of the import path; that of the built-in packages comes first."""
    roots: list[Path] = field(default_factory=list)
    """The checkouts, as `take_snapshot.snapshot` takes them."""
    messages: list[str] = field(default_factory=list)
    """What was done with each checkout."""
    problems: list[str] = field(default_factory=list)
    """Differences from the code of the run."""


def find_checkouts(trust: Sequence[str]) -> list[Checkout]:
    """The checkout of the built-in packages, then those of trusted packages that are not in site-packages."""
    checkouts: dict[Path, list[Path]] = {find_root(PROJECT_ROOT): [IMPORT_ROOT]}
    for name in trust:
        folder = find_package_folder(name)
        if folder is not None:
            folders = checkouts.setdefault(find_checkout_root(folder) or folder, [])
            folders.append(_import_root(name, folder))
    return [Checkout(root, tuple(dict.fromkeys(folders))) for root, folders in checkouts.items()]


def _import_root(package: str, folder: Path) -> Path:
    """The folder from which a package or single file is imported."""
    spec = find_package(package)
    return folder.parent if spec is not None and spec.submodule_search_locations else folder


@contextmanager
def restore_code(
    code: Sequence[Mapping[str, Any]],
    files: Path | None,
    trust: Sequence[str],
    runs_dir: Path,
    *,
    keep: bool = False,
    only_merged: bool = False,
) -> Iterator[RestoredCode]:
    """Restore code into a temporary folder, which is removed when the context closes.

    Args:
        code: entries of `code_snapshot.take_snapshots`.
        files: folder of the files that the entries name under diff and untracked; None: restore only commits.
        trust: packages whose checkouts are restored too.
        runs_dir: as for `take_snapshot`.
        keep: do not remove the temporary folder and its worktrees.
        only_merged: refuse commits that are not ancestors of HEAD; a clone can hold untrusted commits.

    Raises:
        InputError: a commit is missing or not merged, or the uncommitted changes are not those of the run.
    """
    with ExitStack() as stack:
        if keep:
            scratch = Path(tempfile.mkdtemp(prefix="lathe-code-"))
        else:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lathe-code-")))
        scratch = scratch.resolve()
        restored, checkouts = RestoredCode(), find_checkouts(trust)
        for number, entry in enumerate(code):
            name = _plain_name(entry["name"])
            checkout = checkouts[0] if number == 0 else _find_checkout(entry, checkouts[1:])
            if entry.get("git_sha"):
                target = scratch / str(number) / name
                if only_merged:
                    _check_merged(entry, checkout)
                stack.enter_context(_worktree(entry, checkout, target, keep=keep))
                assert checkout is not None
                _apply_changes(entry, files, target, restored)
                restored.roots.append(target)
                restored.on_path += [target / folder.relative_to(checkout.root) for folder in checkout.on_path]
            elif checkout is not None:
                _use_folder(entry, checkout, runs_dir, restored)
            else:
                restored.messages.append(
                    f"code: '{name}' has no commit to restore, and no trusted package here is in it"
                )
        if not code:
            restored.problems.append("code: the run does not record its code, so the code of this checkout is used")
            restored.roots, restored.on_path = [checkouts[0].root], [IMPORT_ROOT]
        yield restored


def _find_checkout(entry: Mapping[str, Any], checkouts: Sequence[Checkout]) -> Checkout | None:
    """The checkout with the name of the run's, else one with its commit: a clone may be in a folder of any name."""
    sha = str(entry.get("git_sha"))
    by_name = (one for one in checkouts if one.root.name == entry["name"])
    by_commit = (one for one in checkouts if SHA.fullmatch(sha) and has_commit(one.root, sha))
    return next(by_name, None) or next(by_commit, None)


def _plain_name(name: object) -> str:
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".", "..", ".git"):
        raise InputError([f"code: {name!r} is not a plain name; the file was changed, ask for a new copy"])
    return name


def _check_merged(entry: Mapping[str, Any], checkout: Checkout | None) -> None:
    """Refuse a commit that is in the clone but not merged, for example a fetched pull request or a stash."""
    sha = str(entry["git_sha"])
    if checkout is None or not SHA.fullmatch(sha) or not has_commit(checkout.root, sha):
        return  # `_worktree` reports a missing commit
    if not is_merged(checkout.root, sha):
        raise InputError(
            [
                f"code: commit {sha[:12]} of '{entry['name']}' is in {checkout.root}, but is not an ancestor of what is "
                "checked out there; check it out or merge it, or add --trust-code if you trust the sender of the file"
            ]
        )


@contextmanager
def _worktree(entry: Mapping[str, Any], checkout: Checkout | None, target: Path, *, keep: bool) -> Iterator[None]:
    """A worktree with the commit of an entry, while the context is open."""
    name, sha = entry["name"], str(entry["git_sha"])
    if checkout is None:
        raise InputError(
            [f"code: the checkout '{name}' of this run is missing; run the command there, with `--trust PACKAGE`"]
        )
    if find_checkout_root(checkout.root) != checkout.root:
        _, fault = find_checkout(checkout.root)
        reason = (
            f"git refuses {checkout.root} {fault}" if fault else f"{checkout.root} is not a git checkout; use a clone"
        )
        raise InputError([f"code: commit {sha[:12]} of '{name}' cannot be restored: {reason}"])
    if not SHA.fullmatch(sha) or not has_commit(checkout.root, sha):
        raise InputError(
            [
                f"code: commit {sha[:40]} of '{name}' is not in {checkout.root}; `git -C {checkout.root} fetch --all` brings "
                "it if it was pushed, else fetch it from the clone that made the run"
            ]
        )
    try:
        with block_signals():
            git(checkout.root, "worktree", "add", "--detach", str(target), sha)
        yield
    except GitError as err:
        raise InputError([f"code: git cannot restore commit {sha[:12]} of '{name}': {err}"]) from err
    finally:
        with block_signals(), contextlib.suppress(GitError):  # git may have failed to create it
            if not keep:
                git(checkout.root, "worktree", "remove", "--force", "--force", str(target))


@contextmanager
def block_signals() -> Iterator[None]:
    """Delay signals that end this process until the context closes."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _apply_changes(entry: Mapping[str, Any], files: Path | None, target: Path, restored: RestoredCode) -> None:
    """Apply the uncommitted changes of the run to a worktree, and compare its digest with that of the run."""
    name, commit = entry["name"], f"commit {entry['git_sha'][:12]}"
    if not entry.get("dirty"):
        restored.messages.append(f"code: '{name}' restored at {commit}")
    elif files is None:
        restored.problems.append(f"code: '{name}' is restored at {commit}, without the uncommitted changes of the run")
        return
    else:
        diff, archive = _read_changes(entry, files)
        if diff:
            git(target, "apply", "--index", "--binary", "--whitespace=nowarn", "-", stdin=diff)
        restored.problems += _unpack(archive, target) if archive else []
        restored.messages.append(f"code: '{name}' restored at {commit} with its uncommitted changes")
    with tempfile.TemporaryDirectory() as scratch:
        now = take_snapshot(target, Path(scratch), [])
    if now["sha256"] == entry["sha256"]:
        restored.messages[-1] += f"; sha256 {now['sha256'][:12]} is the run's"
    else:
        restored.problems.append(
            f"code: '{name}' is restored, but has the sha256 {now['sha256'][:12]} and the run had {entry['sha256'][:12]}; "
            "filters or line endings of git here may differ"
        )


def _read_changes(entry: Mapping[str, Any], files: Path) -> tuple[bytes, bytes]:
    """The binary diff and the tar of untracked files, checked against the digest of the run."""
    name = entry["name"]
    try:
        diff = (files / _plain_name(entry["diff"])).read_bytes() if entry.get("diff") else b""
        packed = files / _plain_name(entry["untracked"]) if entry.get("untracked") else None
        with gzip.open(packed) if packed else io.BytesIO() as file:
            archive = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as err:
        raise InputError([f"code: the uncommitted changes of '{name}' cannot be read: {err}; restore {files}"]) from err
    if len(archive) > MAX_BYTES:
        raise InputError(
            [f"code: {packed} holds more than {MAX_BYTES / 1e6:.0f} MB, more than any snapshot; restore it"]
        )
    sha256 = hashlib.sha256(str(entry["git_sha"]).encode() + diff + archive).hexdigest()
    if sha256 != entry["sha256"]:
        raise InputError(
            [
                f"code: the uncommitted changes of '{name}' in {files} have the sha256 {sha256[:12]}, but the run was frozen "
                f"with {entry['sha256'][:12]}; restore that folder"
            ]
        )
    return diff, archive


def _unpack(archive: bytes, target: Path) -> list[str]:
    """Write untracked files into a worktree, and nothing outside of it. Returns a line for each rejected file."""
    rejected: list[str] = []
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
            for member in opened:
                path = target / member.name
                if (reason := _reject_member(member, target)) is not None:
                    rejected.append(f"code: an untracked file was left out: {member.name!r} {reason}")
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                if member.issym():
                    path.symlink_to(member.linkname)
                else:
                    content = opened.extractfile(member)
                    path.write_bytes(content.read() if content else b"")
                    path.chmod(member.mode & 0o777)
    except (tarfile.TarError, OSError, UnicodeError, ValueError) as err:
        raise InputError([f"code: the archive of untracked files cannot be unpacked: {err}; restore it"]) from err
    return rejected


def _reject_member(member: tarfile.TarInfo, target: Path) -> str | None:
    """The reason why a member must not be written, or None. (The filters of `tarfile` need Python 3.11.4.)"""
    parts, path = Path(member.name).parts, target / member.name
    if not (member.isreg() or member.issym()) or ".." in parts or ".git" in {part.lower() for part in parts}:
        return "is not a plain file of a checkout"
    if not path.parent.resolve().is_relative_to(target) or path == target:
        return "is outside of the checkout"
    if member.issym() and not (path.parent / member.linkname).resolve().is_relative_to(target):
        return f"links out of the checkout, to {member.linkname!r}"
    return "exists already" if path.is_symlink() or path.exists() else None


def _use_folder(entry: Mapping[str, Any], checkout: Checkout, runs_dir: Path, restored: RestoredCode) -> None:
    """Use a folder outside of git as it is; it has no history to restore."""
    restored.roots.append(checkout.root)
    restored.on_path += checkout.on_path
    now = digest_folder(checkout.root, runs_dir)["sha256"]
    if now == entry["sha256"]:
        restored.messages.append(f"code: '{entry['name']}' has no commit; its sources are those of the run")
    else:
        restored.problems.append(
            f"code: '{entry['name']}' has no commit, so it cannot be restored, and its sources have changed: sha256 {now[:12]}, "
            f"and the run had {entry['sha256'][:12]}; they are used as they are"
        )
