"""Reads JSON lines: an object in each line."""

from __future__ import annotations

import json
from typing import Any

from modules.data.files import DataFiles


def read_json_lines(
    files: DataFiles, name: str, texts: tuple[str, ...], lists: tuple[str, ...] = (), optional: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """Read a file with an object per line; a name in ``.gz`` is decompressed, and empty lines are left out.

    Args:
        files: of the data set.
        name: of the file.
        texts: fields that every object has, each a text or a whole number.
        lists: fields that every object has, each a list of texts.
        optional: further lists of texts, which are empty where they are missing.

    Raises:
        DataError: the file is missing or damaged, has no line, or a line lacks a field.
    """
    content = files.read_text(name)
    with files.decoding(name):
        rows = [
            _parse(number, line, texts, lists, optional)
            for number, line in enumerate(content.split("\n"), start=1)
            if line.strip()
        ]
        if not rows:
            raise ValueError("it has no line")
    return rows


def _parse(
    number: int, line: str, texts: tuple[str, ...], lists: tuple[str, ...], optional: tuple[str, ...]
) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as err:
        raise ValueError(f"line {number} is no JSON: {line[:60]!r}") from err
    if not isinstance(row, dict):
        raise ValueError(f"line {number} is no JSON object: {line[:60]!r}")
    for field in texts:
        value = row.get(field)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ValueError(f"line {number} wants {field!r} as a text, but has {value!r:.60}")
    for field in (*lists, *optional):
        value = row.setdefault(field, []) if field in optional else row.get(field)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise ValueError(f"line {number} wants {field!r} as a list of texts, but has {value!r:.60}")
    return row
