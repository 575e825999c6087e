"""The code of a run, put back as it was: each checkout's commit in a scratch worktree, and what was not committed on top."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.util
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

from experiments.config.allowlist import HOUSE
from experiments.core.errors import InputError
from experiments.core.git import GitError, git, has_commit, is_merged
from experiments.trial.code_snapshot import (
    MAX_SNAPSHOT_MB,
    digest_folder,
    find_checkout_root,
    find_package_folder,
    take_snapshot,
)

MOST_BYTES = int(5 * MAX_SNAPSHOT_MB * 1e6)
"""Of an unpacked archive of untracked files: the snapshot's limit, and room for the headers of many small ones."""
SHA = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


@dataclass(frozen=True)
class Checkout:
    """A checkout, or a plain folder of code, of this machine."""

    root: Path
    on_path: tuple[Path, ...]
    """Folders of it that packages are imported from."""


@dataclass
class RestoredCode:
    """The code of a run on this machine."""

    on_path: list[Path] = field(default_factory=list)
    """What the import path begins with; the house's own first."""
    roots: list[Path] = field(default_factory=list)
    """The checkouts, as `take_snapshot.snapshot` takes them."""
    told: list[str] = field(default_factory=list)
    """What was done with each checkout."""
    amiss: list[str] = field(default_factory=list)
    """What is not as the run had it."""


def find_checkouts(trust: Sequence[str]) -> list[Checkout]:
    """The house's checkout, then those of trusted packages that lie in no site-packages."""
    found: dict[Path, list[Path]] = {find_checkout_root(HOUSE) or HOUSE: [HOUSE]}
    for name in trust:
        folder = find_package_folder(name)
        if folder is not None:
            places = found.setdefault(find_checkout_root(folder) or folder, [])
            places.append(_import_root(name, folder))
    return [Checkout(root, tuple(dict.fromkeys(places))) for root, places in found.items()]


def _import_root(package: str, folder: Path) -> Path:
    """The folder that a package is imported from; that of a single file is its own."""
    spec = importlib.util.find_spec(package.partition(".")[0])
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
    """Put code back into a scratch folder, which is removed when the context closes.

    Args:
        code: entries as `take_snapshot.snapshots` gives them.
        files: where the files lie that they name under diff and untracked; None: only commits are put back.
        trust: packages whose checkouts take part beside the house's.
        runs_dir: no part of the code, wherever it lies.
        keep: leave the scratch folder, and the worktrees in it.
        only_merged: refuse commits that what is checked out here does not come from: a clone may hold a stranger's.

    Raises:
        InputError: a commit is not here or not merged, or what was not committed is not what the run was frozen with.
    """
    with ExitStack() as stack:
        if keep:
            scratch = Path(tempfile.mkdtemp(prefix="lathe-code-"))
        else:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lathe-code-")))
        scratch = scratch.resolve()
        found, here = RestoredCode(), find_checkouts(trust)
        for number, entry in enumerate(code):
            name = _plain_name(entry["name"])
            checkout = here[0] if number == 0 else next((one for one in here[1:] if one.root.name == name), None)
            if entry.get("git_sha"):
                target = scratch / str(number) / name
                if only_merged:
                    _check_merged(entry, checkout)
                stack.enter_context(_worktree(entry, checkout, target, keep=keep))
                assert checkout is not None
                _put_back(entry, files, target, found)
                found.roots.append(target)
                found.on_path += [target / place.relative_to(checkout.root) for place in checkout.on_path]
            elif checkout is not None:
                _outside_git(entry, checkout, runs_dir, found)
        if not code:
            found.amiss.append("code: nothing tells which it was, so what is here is used")
            found.roots, found.on_path = [here[0].root], [HOUSE]
        yield found


def _plain_name(name: object) -> str:
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".", "..", ".git"):
        raise InputError([f"code: {name!r} is no name of a checkout; the file was changed, ask for it anew"])
    return name


def _check_merged(entry: Mapping[str, Any], checkout: Checkout | None) -> None:
    """A pull request that was fetched, or a stash, lies in a clone too, and nobody has agreed to run it."""
    sha = str(entry["git_sha"])
    if checkout is None or not SHA.fullmatch(sha) or not has_commit(checkout.root, sha):
        return  # what is not here is told when it is to be restored
    if not is_merged(checkout.root, sha):
        raise InputError(
            [
                f"code: commit {sha[:12]} of '{entry['name']}' is in {checkout.root}, but nothing that is checked out there "
                "comes from it; check it out or merge it, or say --trust-code if you trust who sent the file"
            ]
        )


@contextmanager
def _worktree(entry: Mapping[str, Any], checkout: Checkout | None, target: Path, *, keep: bool) -> Iterator[None]:
    """The commit of an entry as a worktree of the checkout that has it."""
    name, sha = entry["name"], str(entry["git_sha"])
    if checkout is None:
        raise InputError(
            [
                f"code: the checkout '{name}' of this run is not here; `--trust PACKAGE` names a package of it, run from there"
            ]
        )
    if find_checkout_root(checkout.root) != checkout.root:
        raise InputError(
            [
                f"code: {checkout.root} is no git checkout, so commit {sha[:12]} of '{name}' cannot be put back; use a clone"
            ]
        )
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
        with block_signals(), contextlib.suppress(GitError):  # of one that was never made
            if not keep:
                git(checkout.root, "worktree", "remove", "--force", "--force", str(target))


@contextmanager
def block_signals() -> Iterator[None]:
    """Hold back for a moment what would end this process; it comes when the context closes."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _put_back(entry: Mapping[str, Any], files: Path | None, target: Path, found: RestoredCode) -> None:
    """Bring a worktree from its commit to what the run had, and check that it is that."""
    name, commit = entry["name"], f"commit {entry['git_sha'][:12]}"
    if not entry.get("dirty"):
        found.told.append(f"code: '{name}' restored at {commit}")
    elif files is None:
        found.amiss.append(f"code: '{name}' is restored at {commit}, without the uncommitted changes of the run")
        return
    else:
        diff, archive = _changes(entry, files)
        if diff:
            git(target, "apply", "--index", "--binary", "--whitespace=nowarn", "-", stdin=diff)
        found.amiss += _unpack(archive, target) if archive else []
        found.told.append(f"code: '{name}' restored at {commit} with its uncommitted changes")
    with tempfile.TemporaryDirectory() as scratch:
        now = take_snapshot(target, Path(scratch), [])
    if now["sha256"] == entry["sha256"]:
        found.told[-1] += f"; sha256 {now['sha256'][:12]} is the run's"
    else:
        found.amiss.append(
            f"code: '{name}' is restored, but has the sha256 {now['sha256'][:12]} and the run had {entry['sha256'][:12]}; "
            "filters or line endings of git here may differ"
        )


def _changes(entry: Mapping[str, Any], files: Path) -> tuple[bytes, bytes]:
    """The binary diff and the tar of untracked files, if they are what the run was frozen with."""
    name = entry["name"]
    try:
        diff = (files / _plain_name(entry["diff"])).read_bytes() if entry.get("diff") else b""
        packed = files / _plain_name(entry["untracked"]) if entry.get("untracked") else None
        with gzip.open(packed) if packed else io.BytesIO() as file:
            archive = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as err:
        raise InputError([f"code: what '{name}' had not committed cannot be read: {err}; restore {files}"]) from err
    if len(archive) > MOST_BYTES:
        raise InputError(
            [f"code: {packed} holds more than {MOST_BYTES / 1e6:.0f} MB, more than any snapshot; restore it"]
        )
    found = hashlib.sha256(str(entry["git_sha"]).encode() + diff + archive).hexdigest()
    if found != entry["sha256"]:
        raise InputError(
            [
                f"code: what '{name}' had not committed was changed since: {files} makes the sha256 {found[:12]}, and the run "
                f"was frozen with {entry['sha256'][:12]}; restore that folder"
            ]
        )
    return diff, archive


def _unpack(archive: bytes, target: Path) -> list[str]:
    """Write untracked files into a worktree, and nothing beside it; what was left out."""
    left_out: list[str] = []
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
            for member in opened:
                path = target / member.name
                if (fault := _fault_of(member, target)) is not None:
                    left_out.append(f"code: an untracked file was left out: {member.name!r} {fault}")
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
    return left_out


def _fault_of(member: tarfile.TarInfo, target: Path) -> str | None:
    """Why a member may not be written. Python's own filters came with its 3.11.4."""
    parts, path = Path(member.name).parts, target / member.name
    if not (member.isreg() or member.issym()) or ".." in parts or ".git" in {part.lower() for part in parts}:
        return "is none of a checkout's files"
    if not path.parent.resolve().is_relative_to(target) or path == target:
        return "leads out of the checkout"
    if member.issym() and not (path.parent / member.linkname).resolve().is_relative_to(target):
        return f"points out of the checkout, at {member.linkname!r}"
    return "is there already" if path.is_symlink() or path.exists() else None


def _outside_git(entry: Mapping[str, Any], checkout: Checkout, runs_dir: Path, found: RestoredCode) -> None:
    """Of a folder without git there is only what it is now."""
    found.roots.append(checkout.root)
    found.on_path += checkout.on_path
    now = digest_folder(checkout.root, runs_dir)["sha256"]
    if now == entry["sha256"]:
        found.told.append(f"code: '{entry['name']}' is no git checkout; its sources are the run's")
    else:
        found.amiss.append(
            f"code: '{entry['name']}' is no git checkout, and its sources have changed: sha256 {now[:12]}, and the run had "
            f"{entry['sha256'][:12]}; they are used as they are"
        )
