"""Finds a user's file or folder by its path. Imports no torch, because a configuration is composed with it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def find_root(data: Mapping[str, Any], key: str) -> str:
    """The folder that a path of a data set is relative to: its ``root``, or the current folder if the path is only there.

    Args:
        data: arguments of the data set; ``data["root"]`` is the folder of all data sets.
        key: argument that holds the path.

    Raises:
        ValueError: the path is empty, or it is in neither folder.
    """
    path = str(data[key])
    if not path:
        raise ValueError(f"data.{key} is empty; write the path of your data, such as data.{key}=my_data")
    root = Path(str(data["root"])).expanduser().absolute()
    for folder in (root, Path.cwd()):
        if (folder / path).exists():
            return str(folder)
    if Path(path).is_absolute():
        raise ValueError(f"data.{key}={path!r} does not exist; correct the path")
    raise ValueError(
        f"data.{key}={path!r} is neither in {root} nor in the current folder; correct the path, or set LATHE_DATA to the "
        "folder that holds it"
    )


def sha256_of(path: Path) -> str:
    """The sha256 of a file, 64 hexadecimal digits.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise ValueError(
            f"{path} cannot be read ({err.strerror}); name a file that you may read, not a folder"
        ) from err
