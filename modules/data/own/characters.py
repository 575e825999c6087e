"""Counts the characters of a text. Imports no torch, see `locate`."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.data.own.locate import find_root, sha256_of


def find_auto_values(data: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Text` that its file determines.

    Raises:
        ValueError: the file is missing, or is no text in UTF-8.
    """
    root = find_root(data, "path")
    path = Path(root, str(data["path"]))
    digest = sha256_of(path)
    values: dict[str, Any] = {"root": root, "files": {str(data["path"]): digest}}
    if data["tokens"] != "characters":  # byte pairs are learnt, so the size of their vocabulary is a choice
        return {**values, "num_train_tokens": None, "num_train": None}
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = content.decode("utf-8")
    except (OSError, EOFError, ValueError, zlib.error) as err:
        raise ValueError(
            f"data.path={data['path']!r} is no text in UTF-8 ({err}); convert it, or name another file"
        ) from err
    num_train_tokens = len(text) * 90 // 100
    num_train = (num_train_tokens - 1) // int(data["context_tokens"])
    if num_train < 1:
        raise ValueError(
            f"data.path={data['path']!r} has {len(text)} characters, of which 90 % are less than a window of "
            f"data.context_tokens={data['context_tokens']}; lower it, or name a longer text"
        )
    return {**values, "vocab_size": len(set(text)), "num_train_tokens": num_train_tokens, "num_train": num_train}
