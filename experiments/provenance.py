"""What a result depends on beside its configuration: code, environment, machine and data."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import os
import platform
import socket
import subprocess
import tarfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from experiments.secrets import SECRET_VALUES

MAX_SNAPSHOT_MB = 20.0
SECRET_FILES = (".env", ".netrc", ".pypirc", "id_rsa", "id_ed25519", "credentials")
SOURCE_SUFFIXES = {".py", ".yaml", ".yml", ".toml", ".txt", ".cfg"}


def code_roots(config_dirs: Sequence[str]) -> list[Path]:
    """The checkouts (or plain folders) whose code takes part: the house's and those of the user's configurations."""
    house = Path(__file__).resolve().parent.parent
    roots = [_top_level(folder) or folder for folder in [house, *map(Path, config_dirs)]]
    return list(dict.fromkeys(roots))


def snapshot(root: Path, folder: Path, warnings: list[str]) -> dict[str, Any]:
    """Write what makes ``root`` differ from its commit into ``folder``.

    Args:
        root: a git checkout or a plain folder.
        folder: receives ``NAME.patch`` (a binary diff) and ``NAME-untracked.tar.gz`` where there is something to write.
        warnings: gets a line for everything that was left out.

    Returns:
        name, git_sha, branch, dirty, diff and untracked (file names or null); outside git: name and a digest of the sources.
    """
    sha = _git(root, "rev-parse", "--verify", "-q", "HEAD").decode().strip()
    if _top_level(root) != root or not sha:
        return {"name": root.name, "git_sha": None, "sources_sha256": _digest_sources(root)}
    diff, untracked = _changes(root, warnings)
    names: dict[str, str | None] = {"diff": None, "untracked": None}
    if diff:
        names["diff"] = f"{root.name}.patch"
    if untracked:
        names["untracked"] = f"{root.name}-untracked.tar.gz"
    for kind, content in (("diff", diff), ("untracked", untracked)):
        name = names[kind]
        if name is None:
            continue
        if len(content) > MAX_SNAPSHOT_MB * 1e6:
            warnings.append(
                f"the {kind} part of the code snapshot of {root} has {len(content) / 1e6:.0f} MB and was left out "
                f"(at most {MAX_SNAPSHOT_MB:.0f} MB); commit it, or list it in .gitignore"
            )
            names[kind] = None
        else:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    branch = _git(root, "rev-parse", "--abbrev-ref", "HEAD").decode().strip()
    return {"name": root.name, "git_sha": sha, "branch": branch, "dirty": bool(diff or untracked), **names}


def _changes(root: Path, warnings: list[str]) -> tuple[bytes, bytes]:
    """Binary diff against HEAD and a tar of the untracked files, both without files that hold secrets."""
    changed = _names(_git(root, "diff", "--name-only", "-z", "HEAD"))
    listed = _names(_git(root, "ls-files", "--others", "--exclude-standard", "-z"))
    patches = b""
    for name in changed:
        patch = _git(root, "diff", "--binary", "HEAD", "--", name)
        if _holds_secret(name, patch):
            warnings.append(_left_out(root / name))
        else:
            patches += patch
    return patches, _archive(root, listed, warnings) if listed else b""


def _archive(root: Path, names: list[str], warnings: list[str]) -> bytes:
    buffer = io.BytesIO()
    size = 0
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in names:
            path = root / name
            if not path.is_file() or path.is_symlink():
                continue
            size += path.stat().st_size
            if size > MAX_SNAPSHOT_MB * 1e6:
                warnings.append(
                    f"the untracked files of {root} from {name} on were left out of the code snapshot "
                    f"(at most {MAX_SNAPSHOT_MB:.0f} MB); commit them, or list them in .gitignore"
                )
                break
            if _holds_secret(name, path.read_bytes()):
                warnings.append(_left_out(path))
            else:
                archive.add(path, arcname=name)
    return buffer.getvalue()


def _holds_secret(name: str, content: bytes) -> bool:
    file_name = Path(name).name
    if file_name.startswith(SECRET_FILES) or file_name.endswith((".pem", ".key", ".p12")):
        return True
    return bool(SECRET_VALUES.search(content.decode("utf-8", errors="ignore")))


def _left_out(path: Path) -> str:
    return f"{path} looks as if it held a secret and was left out of the code snapshot; keep such files out of the checkout"


def _names(listing: bytes) -> list[str]:
    return [os.fsdecode(name) for name in listing.split(b"\0") if name]


def _top_level(folder: Path) -> Path | None:
    top = _git(folder, "rev-parse", "--show-toplevel").decode().strip()
    return Path(top).resolve() if top else None


def _git(folder: Path, *args: str) -> bytes:
    """Output of a git command; empty where git says no or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *args], capture_output=True, timeout=60, check=False)
    except FileNotFoundError:
        return b""
    return done.stdout if done.returncode == 0 else b""


def _digest_sources(root: Path) -> str:
    """One hash over the text sources below a folder that is no git checkout."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        inner = path.relative_to(root)
        if path.is_file() and path.suffix in SOURCE_SUFFIXES and not any(part.startswith(".") for part in inner.parts):
            digest.update(f"{inner.as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


@lru_cache(maxsize=1)
def packages() -> dict[str, str]:
    """Name and version of every installed distribution."""
    found = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def machine() -> dict[str, Any]:
    """The Python and the host that freeze a trial."""
    return {
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
    }
