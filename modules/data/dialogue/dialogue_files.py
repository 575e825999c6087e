"""Reads dialogues and divides them into splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modules.data.base import DataError
from modules.data.files import DataFiles
from modules.data.text.json_lines import read_json_lines


def check_files(owner: str, names: Sequence[str], held_out_every: int) -> None:
    """
    Raises:
        ValueError: there are not one to three files, or ``held_out_every`` is too small.
    """
    if not 1 <= len(names) <= 3:
        raise ValueError(
            f"{owner} wants one to three files in data.files: for training, test and validation, but got {list(names)}"
        )
    if held_out_every < 3:
        raise ValueError(f"{owner} wants held_out_every of at least 3, but got {held_out_every}")


def read_split(
    files: DataFiles, split: str, held_out_every: int, lists: tuple[str, ...], optional: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """Read the objects of a split, from JSON lines.

    The files are for training, test and validation, in this order. What has no file is held out of the training: every
    ``held_out_every``-th line validates, and the line after it tests.

    Args:
        files: of the data set.
        split: "train", "val" or "test".
        held_out_every: at least 3.
        lists: fields that every object has, each a list of texts.
        optional: further lists of texts, which are empty where they are missing.

    Raises:
        DataError: a file is missing or damaged, or the split is empty.
    """
    names = dict(zip(("train", "test", "val"), files.files, strict=False))
    held_out = {place for place, name in enumerate(("val", "test")) if name not in names}
    rows = read_json_lines(files, names.get(split, names["train"]), (), lists, optional)
    if split == "train":
        rows = [row for number, row in enumerate(rows) if number % held_out_every not in held_out]
    elif split not in names:
        rows = rows[("val", "test").index(split) :: held_out_every]
    if not rows:
        raise DataError(
            f"data.folder={files.folder!r}: the split '{split}' has no line, because {names['train']} is too short; add lines, "
            "or name a file for it in data.files"
        )
    return rows
