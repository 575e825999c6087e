"""Safetensors files with the weights of a model: one file, or shards that an index lists. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from experiments.core.errors import MAX_LISTED, InputError
from experiments.core.files.read_file import DamagedFileError, open_regular, read_json_map

SAFE = ".safetensors"
INDEX = ".safetensors.index.json"
"""End of the name of an index of shards, as `save_pretrained` of transformers writes it."""
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library."""


def find_in_folder(folder: Path, key: str) -> Path:
    """Find the weights in a folder that another library wrote: an index of shards, else the only safetensors file.

    Args:
        folder: to look in.
        key: of the configuration that names it.

    Raises:
        InputError: there is none, or there are several.
    """
    indices = sorted(path for path in folder.iterdir() if path.name.endswith(INDEX))
    files = indices or sorted(path for path in folder.iterdir() if path.suffix == SAFE)
    named = [path for path in files if path.name.startswith("model.")]
    if len(files) == 1 or len(named) == 1:
        return (named or files)[0]
    if files:
        names = ", ".join(path.name for path in files[:MAX_LISTED])
        raise InputError([f"{key}={folder} has several weight files ({names}); name one of them"])
    if pickled := sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED):
        raise InputError(
            [
                f"{key}={folder} has no {SAFE} file, and {pickled[0]} can run code when it is read; "
                "save the model again as safetensors, with `save_pretrained(folder)` for transformers"
            ]
        )
    raise InputError([f"{key}={folder} is neither a run nor a folder with a {SAFE} file; name one that is"])


def list_shards(path: Path) -> list[Path]:
    """The files with the weights: those that an index lists, or the file itself.

    Raises:
        InputError: the index is damaged, or shards are missing.
    """
    if not path.name.endswith(INDEX):
        return [path]
    shard_names = read_json_map(path).get("weight_map")
    if not isinstance(shard_names, dict) or not all(isinstance(name, str) for name in shard_names.values()):
        raise DamagedFileError(path, "it has no map 'weight_map' from weights to files")
    names = sorted({*shard_names.values()})
    if outside := [name for name in names if Path(name).name != name or not name.endswith(SAFE)]:
        raise InputError([f"{path} lists {outside[0]!r}, which is not a {SAFE} file beside it; correct the index"])
    if missing := [name for name in names if not (path.parent / name).is_file()]:
        raise InputError(
            [
                f"{path} lists {len(names)} files, of which {len(missing)} are missing: {', '.join(missing[:MAX_LISTED])}; "
                "complete the folder"
            ]
        )
    return [path.parent / name for name in names]


def join_shards(shards: list[tuple[str, Path]], target: Path) -> None:
    """Write the weights of several files to one.

    Args:
        shards: a part of the model, and a file with its weights; in the target their names begin with the part. The part "" is
            the whole model.
        target: the file to write.

    Raises:
        InputError: a shard is damaged, or two have the same weight.
        OSError: a file cannot be read or written.
    """
    weights, offset, starts = dict[str, Any](), 0, list[int]()
    for part, shard in shards:
        header, start, size = _read_header(shard)
        starts.append(start)
        for name, entry in header.items():
            whole_name = f"{part}.{name}" if part else name
            if whole_name in weights:
                raise InputError(
                    [f"{shard} has the weight {whole_name!r}, as another file has; remove it from one of them"]
                )
            first, last = entry["data_offsets"]
            weights[whole_name] = {**entry, "data_offsets": [first + offset, last + offset]}
        offset += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **weights}).encode()
    text += b" " * (-len(text) % 8)
    with target.open("wb") as joined:
        joined.write(len(text).to_bytes(8, "little") + text)
        for (_, shard), start in zip(shards, starts, strict=True):
            with open_regular(shard) as file:
                file.seek(start)
                shutil.copyfileobj(file, joined, 1 << 20)


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The entries of the weights in a file, where its data begin, and their size in bytes."""
    try:
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(MAX_HEADER_BYTES, path.stat().st_size):
                raise ValueError
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        size = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as err:
        raise DamagedFileError(path, "it has no valid safetensors header", "copy the file again") from err
    if path.stat().st_size != 8 + length + size:
        raise DamagedFileError(path, "it is not complete", "copy the file again")
    return header, 8 + length, size


def hash_file(path: Path) -> str:
    """The SHA-256 checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
