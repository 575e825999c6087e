"""Records the code of a trial: the commit of each checkout, and its uncommitted changes."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import sysconfig
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.core.atomic import fsync
from experiments.core.files.packages import OWN_FOLDERS, PROJECT_ROOT, find_package
from experiments.core.git import READ_TIMEOUT_S, GitError, find_checkout, git
from experiments.core.runs_dir import is_run_file
from experiments.core.secret_formats import CREDENTIAL_FILES
from experiments.core.secrets import has_secret

MAX_SNAPSHOT_MB = 20.0
SOURCE_SUFFIXES = {".py", ".yaml", ".yml", ".toml", ".txt", ".cfg"}
# Options that override the user's git configuration.
DIFF = (
    "diff", "--binary", "--full-index", "--no-renames", "--no-color", "--no-ext-diff", "--no-textconv",
    "--diff-algorithm=myers", "--indent-heuristic", "--unified=3", "--inter-hunk-context=0", "--no-relative", "-O/dev/null",
    "--src-prefix=a/", "--dst-prefix=b/", "HEAD", "--",
)  # fmt: skip


def take_snapshots(
    config_dirs: Sequence[str], trust: Sequence[str], folder: Path, warnings: list[str], runs_dir: Path | None = None
) -> list[dict[str, Any]]:
    """Take a snapshot of the built-in packages, of trusted packages and of folders of configurations.

    Of a folder of configurations only the digest is taken: the settings of a repository can make git run programs, and
    configurations, unlike packages, can be untrusted.
    """
    folders = [PROJECT_ROOT, *(path for name in trust if (path := find_package_folder(name)))]
    roots = list(dict.fromkeys(map(find_root, folders)))
    warnings += filter(None, map(_find_fault, roots))
    entries = [take_snapshot(root, folder, warnings, runs_dir) for root in roots]
    others = [path for path in map(Path, config_dirs) if not any(path.is_relative_to(root) for root in roots)]
    return entries + [digest_folder(path, runs_dir) for path in others]


def find_package_folder(package: str) -> Path | None:
    """Folder of a trusted package; None for an installed one, whose version `installed_packages` records."""
    spec = find_package(package)
    paths = (
        [*(spec.submodule_search_locations or ()), *([Path(spec.origin).parent] if spec.origin else [])] if spec else []
    )
    if not paths:
        return None
    folder = Path(paths[0]).resolve()
    return None if _is_installed(folder) else folder


def find_root(folder: Path) -> Path:
    """The checkout of a package; its own folder outside of git, or if it is installed, perhaps in another project's checkout."""
    return folder if _is_installed(folder) else find_checkout_root(folder) or folder


def _is_installed(folder: Path) -> bool:
    installed = [Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib")]
    return any(folder.is_relative_to(path) for path in installed)


def _find_fault(root: Path) -> str | None:
    """The warning about code that Lathe will not be able to restore; None for a checkout or an installed package."""
    checkout, fault = find_checkout(root)
    if fault is not None:
        return f"the code snapshot lacks the commit and the uncommitted changes of {root}, as git refuses it {fault}"
    if checkout is None and not _is_installed(root):
        return f"{root} is not in a git checkout, so its uncommitted code cannot be restored later; put it under git"
    if checkout is not None and _git(root, "rev-parse", "--verify", "-q", "HEAD") is None:
        return f"the code snapshot lacks the code of {root}, as git finds no commit there; commit it"
    return None


def take_snapshot(root: Path, folder: Path, warnings: list[str], runs_dir: Path | None = None) -> dict[str, Any]:
    """Write the uncommitted changes of ``root`` to ``folder``.

    Args:
        root: a git checkout or a plain folder.
        folder: gets ``NAME.patch`` (a binary diff) and ``NAME-untracked.tar.gz`` if there are such changes.
        warnings: gets a line for each file that is left out.
        runs_dir: Lathe's own files in it never count as code.

    Returns:
        name, sha256 over all of it, git_sha, branch, dirty, diff and untracked (file names or null); outside git: name
        and sha256 of the sources.
    """
    sha = (_git(root, "rev-parse", "--verify", "-q", "HEAD") or b"").decode().strip()
    if find_checkout_root(root) != root or not sha:
        return digest_folder(root, runs_dir)
    changed = _names(root, warnings, "diff", "--name-only", "--no-renames", "-z", "HEAD")
    listed = _names(root, warnings, "ls-files", "--others", "--exclude-standard", "-z")
    untracked = [name for name in listed if not is_run_file(root / name, runs_dir)]
    name = _free_name(folder, root.name)
    diff, archive = _diff(root, changed, warnings), _archive(root, untracked, warnings)
    files = {
        "diff": _write(folder / f"{name}.patch", diff),
        "untracked": _write(folder / f"{name}-untracked.tar.gz", gzip.compress(archive, mtime=0)) if archive else None,
    }
    sha256 = hashlib.sha256(sha.encode() + diff + archive).hexdigest()
    branch = (_git(root, "rev-parse", "--abbrev-ref", "HEAD") or b"").decode().strip()
    return {
        "name": root.name,
        "sha256": sha256,
        "git_sha": sha,
        "branch": branch,
        "dirty": bool(changed or untracked),
        **files,
    }


def digest_folder(root: Path, runs_dir: Path | None) -> dict[str, Any]:
    """The entry of a folder outside of git: name and sha256 of its sources."""
    return {"name": root.name, "sha256": _digest_sources(root, runs_dir), "git_sha": None}


def _free_name(folder: Path, name: str) -> str:
    """A file name that no other checkout uses yet; two checkouts can have the same name."""
    taken = {path.name for path in folder.glob("*")}
    names = (name if number == 1 else f"{name}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if not {f"{name}.patch", f"{name}-untracked.tar.gz"} & taken)


def _write(path: Path, content: bytes) -> str | None:
    if not content:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    fsync(path)
    return path.name


def _diff(root: Path, names: list[str], warnings: list[str]) -> bytes:
    """Binary diff against HEAD, without large files and files with secrets."""
    included = []
    for name in names:
        path = root / name
        if _holds_secret(name, b""):
            warnings.append(_left_out(path))
        elif path.is_file() and path.stat().st_size > MAX_SNAPSHOT_MB * 1e6:
            warnings.append(_too_large([path]))
        else:
            included.append(name)
    if not included:
        return b""
    diff = _git(root, *DIFF, *(included if len(included) < len(names) else ()))
    if diff is not None and has_secret(diff.decode("utf-8", errors="ignore")):
        diff = b"".join(_diff_of_one(root, name, warnings) for name in included)
    if diff is None:
        warnings.append(
            f"git could not list the changes in {root}, so the code snapshot lacks them; see `git diff HEAD`"
        )
    elif len(diff) > MAX_SNAPSHOT_MB * 1e6:
        warnings.append(_too_large([root / name for name in included]))
    else:
        return diff
    return b""


def _diff_of_one(root: Path, name: str, warnings: list[str]) -> bytes:
    patch = _git(root, *DIFF, name) or b""
    if not _holds_secret(name, patch):
        return patch
    warnings.append(_left_out(root / name))
    return b""


def _archive(root: Path, names: list[str], warnings: list[str]) -> bytes:
    """Tar of the untracked files without their owners, and without large files and files with secrets."""
    buffer = io.BytesIO()
    large: list[Path] = []
    num_bytes = num_files = 0
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            path = root / name
            info = tarfile.TarInfo(name)
            try:
                size = path.lstat().st_size
                if path.is_symlink():
                    info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
                    content = b""
                elif num_bytes + size > MAX_SNAPSHOT_MB * 1e6:
                    large.append(path)
                    continue
                else:
                    content = path.read_bytes()
                info.mode = path.lstat().st_mode & 0o777
            except OSError as err:
                warnings.append(f"{path} was left out of the code snapshot: {err.strerror}; commit it, or remove it")
                continue
            if _holds_secret(name, content):
                warnings.append(_left_out(path))
                continue
            info.size = len(content)
            num_bytes, num_files = num_bytes + len(content), num_files + 1
            archive.addfile(info, io.BytesIO(content))
    if large:
        warnings.append(_too_large(large))
    return buffer.getvalue() if num_files else b""


def _holds_secret(name: str, content: bytes) -> bool:
    return bool(CREDENTIAL_FILES.search(name)) or has_secret(content.decode("utf-8", errors="ignore"))


def _left_out(path: Path) -> str:
    return (
        f"{path} seems to contain a secret and was left out of the code snapshot; keep such files out of the checkout"
    )


def _too_large(paths: list[Path]) -> str:
    others = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return (
        f"{paths[0]}{others} would make the code snapshot larger than {MAX_SNAPSHOT_MB:.0f} MB, so it was left out; "
        "commit it, or list it in .gitignore"
    )


def _names(root: Path, warnings: list[str], *args: str) -> list[str]:
    listing = _git(root, *args)
    if listing is None:
        warnings.append(f"`git {args[0]}` failed in {root}, so the code snapshot may lack changes; see `git status`")
    return [os.fsdecode(name) for name in (listing or b"").split(b"\0") if name]


def find_checkout_root(folder: Path) -> Path | None:
    """Root of the checkout that contains a folder; None outside of git, and where git refuses."""
    return find_checkout(folder)[0]


def _git(folder: Path, *args: str) -> bytes | None:
    """Output of a git command; None if it fails."""
    try:
        return git(folder, *args, timeout_s=READ_TIMEOUT_S)
    except GitError:
        return None


def _digest_sources(root: Path, runs_dir: Path | None) -> str:
    """One hash over the text sources in a folder outside of git; in that of Lathe, only over its own packages."""
    digest = hashlib.sha256()
    # The folder can be site-packages, which also contains other packages.
    for top in OWN_FOLDERS if root == PROJECT_ROOT else [root]:
        for path in _sources(top, runs_dir):
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _sources(top: Path, runs_dir: Path | None) -> Iterator[Path]:
    for parent, folders, files in os.walk(top):
        folders[:] = sorted(
            name for name in folders if name[0] != "." and not is_run_file(Path(parent, name), runs_dir)
        )
        for name in sorted(files):
            path = Path(parent, name)
            if path.suffix in SOURCE_SUFFIXES and name[0] != "." and path.is_file():
                yield path
