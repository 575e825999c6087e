"""Makes shared files, valid or damaged, as `lathe share` would write them, without a run."""

from __future__ import annotations

import copy
import gzip
import hashlib
import struct
import tarfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from experiments.config.compose import compose
from experiments.results.share.rules import reset
from experiments.results.share.text import as_text
from experiments.trial.trial import trial_id

SHA = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = struct.pack("<Q", 2) + b"{}" + b"\0" * 64


@lru_cache(maxsize=4)
def _values(*overrides: str) -> dict[str, Any]:
    config = reset(compose(overrides).config)
    return {
        "lathe_share": 2,
        "name": config["name"],
        "description": config["description"],
        "how_to_run": ["lathe run --from it.yaml", "lathe reproduce it.yaml"],
        "configuration": config,
        "trial_id": trial_id(config),
        "overrides": list(overrides),
        "code": [code()],
        "environment": {
            "python": "3.11.7", "platform": "Linux-6.1-x86_64", "torch": "2.13.0", "device_name": "cpu",
            "cpu_capability": "AVX2", "cpu_threads": 1, "packages": {"numpy": "2.4.6", "torch": "2.13.0+cpu"},
        },
        "data": {
            "files": None, "num_files": None, "names_and_sizes_sha256": None,
            "splits": {"train": {"digest": "0722b58314feb492", "num_examples": 1297}},
        },
        "seeds": {"seed": 0},
        "expected": {"metrics": {"train/loss_nats": {"steps": [1, 10, 20], "values": [2.5, 1.25, 0.5]}}},
        "bundle": None,
    }  # fmt: skip


def values(*overrides: str) -> dict[str, Any]:
    """The values of a shared file of these overrides."""
    return copy.deepcopy(_values(*overrides))


def code(patch: bytes = b"", archive: bytes = b"", **changed: Any) -> dict[str, Any]:
    """An entry of ``code``, with the right checksum for its uncommitted changes."""
    entry = {
        "name": "main", "sha256": hashlib.sha256(SHA.encode() + patch + archive).hexdigest(), "git_sha": SHA,
        "dirty": bool(patch or archive), "diff": "main.patch" if patch else None,
        "untracked": "main-untracked.tar.gz" if archive else None,
    }  # fmt: skip
    return entry | changed


def put(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Set a value by its dotted key; missing maps on the way are added."""
    node: Any = content
    *parents, last = key.split(".")
    for name in parents:
        node = node[int(name)] if isinstance(node, list) else node.setdefault(name, {})
    node[last] = value
    return content


def text(content: dict[str, Any] | None = None) -> str:
    return as_text(content or values())


def member(name: str, content: bytes = b"", **fields: Any) -> bytes:
    """A member of an archive; type, size and linkname in its header may be wrong."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT if info.size >= 8**11 else tarfile.USTAR_FORMAT) + padded(content)


def padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % tarfile.BLOCKSIZE)


def tar(members: Iterable[bytes]) -> bytes:
    return b"".join(members) + b"\0" * 1024


def packed(*members: bytes) -> bytes:
    return gzip.compress(tar(members), mtime=0)


def untracked(*members: bytes) -> bytes:
    """The tar of untracked files."""
    return tar(members)


def bundled(
    path: Path,
    files: dict[str, bytes] | None = None,
    content: dict[str, Any] | None = None,
    *,
    listed: dict[str, str] | None = None,
    more: Iterable[bytes] = (),
) -> None:
    """Write an archive of these files, with a YAML that lists them.

    Args:
        path: the new file.
        files: content by name.
        content: the other values of the YAML.
        listed: SHA-256 by name for the YAML instead of the right ones.
        more: further members at the end.
    """
    files = {"weights/model.safetensors": WEIGHTS} if files is None else files
    sums = {name: hashlib.sha256(held).hexdigest() for name, held in files.items()}
    content = {**(content or values()), "bundle": sums if listed is None else listed}
    yaml = member("share.yaml", as_text(content).encode())
    path.write_bytes(packed(yaml, *(member(name, held) for name, held in files.items()), *more))


def zipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)
