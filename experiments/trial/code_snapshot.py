"""The code that a trial runs: which commit, and everything by which the checkout differs from it."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import os
import sysconfig
import tarfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from experiments.config.allowlist import HOUSE
from experiments.core.atomic import fsync
from experiments.core.git import GitError, git
from experiments.core.secrets import has_secret

PACKAGES = ("conf", "experiments", "launchers", "modules", "sweeps")
MAX_SNAPSHOT_MB = 20.0
SECRET_FILES = (".env", ".netrc", ".pypirc", "id_rsa", "id_ed25519", "credentials")
SOURCE_SUFFIXES = {".py", ".yaml", ".yml", ".toml", ".txt", ".cfg"}
# What a user's own git configuration may not change about a patch.
DIFF = (
    "diff", "--binary", "--full-index", "--no-renames", "--no-color", "--no-ext-diff", "--no-textconv",
    "--diff-algorithm=myers", "--indent-heuristic", "--unified=3", "--inter-hunk-context=0", "--no-relative", "-O/dev/null",
    "--src-prefix=a/", "--dst-prefix=b/", "HEAD", "--",
)  # fmt: skip


def take_snapshots(
    config_dirs: Sequence[str], trust: Sequence[str], folder: Path, warnings: list[str], runs_dir: Path | None = None
) -> list[dict[str, Any]]:
    """Snapshots of all that takes part: the house's and the trusted packages' checkouts, and the user's configurations.

    Of a folder of configurations only the digest is taken: a repository's own settings can make git run programs, and
    configurations, unlike packages, may be a stranger's.
    """
    places = [HOUSE, *(place for name in trust if (place := find_package_folder(name)))]
    roots = list(dict.fromkeys(find_checkout_root(place) or place for place in places))
    found = [take_snapshot(root, folder, warnings, runs_dir) for root in roots]
    plain = [place for place in map(Path, config_dirs) if not any(place.is_relative_to(root) for root in roots)]
    return found + [digest_folder(place, runs_dir) for place in plain]


def find_package_folder(package: str) -> Path | None:
    """Where a trusted package lies; None for an installed one, which `packages` tells by its version."""
    try:
        spec = importlib.util.find_spec(package.partition(".")[0])
    except (ImportError, ValueError):
        return None
    places = (
        [*(spec.submodule_search_locations or ()), *([Path(spec.origin).parent] if spec.origin else [])] if spec else []
    )
    if not places:
        return None
    folder = Path(places[0]).resolve()
    installed = [Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib")]
    return None if any(folder.is_relative_to(place) for place in installed) else folder


def take_snapshot(root: Path, folder: Path, warnings: list[str], runs_dir: Path | None = None) -> dict[str, Any]:
    """Write what makes ``root`` differ from its commit into ``folder``.

    Args:
        root: a git checkout or a plain folder.
        folder: receives ``NAME.patch`` (a binary diff) and ``NAME-untracked.tar.gz`` where there is something to write.
        warnings: gets a line for everything that was left out.
        runs_dir: no part of the code, wherever it lies.

    Returns:
        name, sha256 over all of it, git_sha, branch, dirty, diff and untracked (file names or null); outside git: name
        and sha256 of the sources.
    """
    sha = (_git(root, "rev-parse", "--verify", "-q", "HEAD") or b"").decode().strip()
    if find_checkout_root(root) != root or not sha:
        return digest_folder(root, runs_dir)
    changed = _names(root, warnings, "diff", "--name-only", "--no-renames", "-z", "HEAD")
    listed = _names(root, warnings, "ls-files", "--others", "--exclude-standard", "-z")
    untracked = [name for name in listed if runs_dir is None or not (root / name).is_relative_to(runs_dir)]
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
    """What is told of a folder outside git: name and sha256 of the sources."""
    return {"name": root.name, "sha256": _digest_sources(root, runs_dir), "git_sha": None}


def _free_name(folder: Path, name: str) -> str:
    """Two checkouts may have one name."""
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
    """Binary diff against HEAD, without what is large or holds a secret."""
    kept = []
    for name in names:
        path = root / name
        if _holds_secret(name, b""):
            warnings.append(_left_out(path))
        elif path.is_file() and path.stat().st_size > MAX_SNAPSHOT_MB * 1e6:
            warnings.append(_too_large([path]))
        else:
            kept.append(name)
    if not kept:
        return b""
    diff = _git(root, *DIFF, *(kept if len(kept) < len(names) else ()))
    if diff is not None and has_secret(diff.decode("utf-8", errors="ignore")):
        diff = b"".join(_diff_of_one(root, name, warnings) for name in kept)
    if diff is None:
        warnings.append(
            f"git could not tell the changes in {root}, so the code snapshot lacks them; see `git diff HEAD`"
        )
    elif len(diff) > MAX_SNAPSHOT_MB * 1e6:
        warnings.append(_too_large([root / name for name in kept]))
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
    """Tar of the untracked files, without what is large or holds a secret; who owns them is nobody's affair."""
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
    file_name = Path(name).name
    if file_name.startswith(SECRET_FILES) or file_name.endswith((".pem", ".key", ".p12")):
        return True
    return has_secret(content.decode("utf-8", errors="ignore"))


def _left_out(path: Path) -> str:
    return f"{path} looks as if it held a secret and was left out of the code snapshot; keep such files out of the checkout"


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


@lru_cache(maxsize=64)
def find_checkout_root(folder: Path) -> Path | None:
    """The checkout that a folder lies in; None outside git."""
    top = os.fsdecode(_git(folder, "rev-parse", "--show-toplevel") or b"").strip()
    return Path(top).resolve() if top else None


def _git(folder: Path, *args: str) -> bytes | None:
    """Output of a git command; None where git says no, does not end or is not there."""
    try:
        return git(folder, *args)
    except GitError:
        return None


def _digest_sources(root: Path, runs_dir: Path | None) -> str:
    """One hash over the text sources below a folder that is no git checkout; of the house, its own packages."""
    digest = hashlib.sha256()
    # The house may lie in site-packages, beside strangers.
    for top in [root / name for name in PACKAGES] if root == HOUSE else [root]:
        for path in _sources(top, runs_dir):
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _sources(top: Path, runs_dir: Path | None) -> Iterator[Path]:
    for place, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if name[0] != "." and Path(place, name) != runs_dir)
        for name in sorted(files):
            path = Path(place, name)
            if path.suffix in SOURCE_SUFFIXES and name[0] != "." and path.is_file():
                yield path
