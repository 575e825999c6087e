"""Where the files of a data set lie, and whether they are there. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.core.secrets import resolve


@dataclass(frozen=True)
class MissingFiles:
    """What of a data set is not on this machine."""

    folder: Path
    files: list[str]
    """That are not in the folder; empty where it is the folder that is not there."""


def find_data_folder(data: Mapping[str, Any]) -> Path:
    """Where a data set's files lie on this machine.

    Args:
        data: its part of a configuration, with ``root`` and ``folder``.

    Raises:
        KeyError: with the name of an environment variable that is not set here.
    """
    return Path(str(resolve(data["root"]))).expanduser() / str(data["folder"])


def find_missing(data: Mapping[str, Any]) -> MissingFiles | None:
    """What is not there; None where all of it is. Of data that names no files the folder has to be there.

    Raises:
        KeyError: as `find_data_folder`.
    """
    folder, files = find_data_folder(data), data.get("files")
    absent = [name for name in files or () if isinstance(name, str) and not (folder / name).is_file()]
    if not absent and (files is not None or folder.is_dir()):
        return None
    return MissingFiles(folder, absent)
