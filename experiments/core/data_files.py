"""The folder of a data set on this machine, and its missing files. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.core.files.paths import user_path
from experiments.core.secrets import resolve


@dataclass(frozen=True)
class MissingFiles:
    """Files of a data set that this machine lacks."""

    folder: Path
    files: list[str]
    """Names of the missing files; empty if the whole folder is missing."""


def find_data_folder(data: Mapping[str, Any]) -> Path:
    """The folder of a data set on this machine.

    Args:
        data: the data group of a configuration, with ``root`` and ``folder``.

    Raises:
        KeyError: an environment variable is not set; the argument is its name.
    """
    return user_path(str(resolve(data["root"])), "data.root") / str(data["folder"])


def find_missing(data: Mapping[str, Any]) -> MissingFiles | None:
    """The missing files, or None. A data set that lists no files only needs its folder.

    Raises:
        KeyError: as `find_data_folder`.
    """
    folder, files = find_data_folder(data), data.get("files")
    absent = [name for name in files or () if isinstance(name, str) and not (folder / name).is_file()]
    if not absent and (files is not None or folder.is_dir()):
        return None
    return MissingFiles(folder, absent)
