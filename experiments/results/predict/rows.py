"""Reads rows of a table for `lathe predict`: a CSV file, or JSON objects. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.core.errors import InputError, did_you_mean
from experiments.core.files.paths import user_path
from modules.data.own.columns import read_table
from modules.data.own.json_rows import to_json_rows

JSON_ENDINGS = (".json", ".jsonl")


def find_problem(arg: str) -> str | None:
    """Why a file with rows cannot be read; None if it can."""
    try:
        next(read_rows(arg), None)
    except InputError as err:
        return err.problems[0]
    return None


def read_rows(arg: str) -> Iterator[str]:
    """Iterate over the rows of a file, each as a JSON object of its columns; an empty cell is null.

    Args:
        arg: a table as in training, see `read_table`; or `.json`, a list of objects; or `.jsonl`, an object
            in each line.

    Raises:
        InputError: the file cannot be read.
    """
    path = user_path(arg)
    if not path.exists():
        near = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(
            [f"there is no file {arg}; {did_you_mean(path.name, near, 'name a CSV or JSON file with rows')}"]
        )
    try:
        if path.suffix.lower() in JSON_ENDINGS:
            yield from map(json.dumps, _read_objects(path))
        else:
            yield from to_json_rows(read_table(path, None).table)
    except OSError as err:
        raise InputError([f"{arg} cannot be read ({err.strerror}); name a CSV or JSON file with rows"]) from err
    except ValueError as err:
        is_json = path.suffix.lower() in JSON_ENDINGS
        reason = str(err).partition(", or set data.on_bad_example")[0]  # a key of the training
        problem = f"{arg} cannot be read as JSON ({err}); name a file with objects" if is_json else reason
        raise InputError([problem]) from err


def _read_objects(path: Path) -> Iterator[dict[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    is_lines = path.suffix.lower() == ".jsonl"
    objects = [json.loads(line) for line in text.splitlines() if line.strip()] if is_lines else json.loads(text)
    for number, row in enumerate(objects if isinstance(objects, list) else [objects], start=1):
        if not isinstance(row, dict):
            raise ValueError(f"item {number} is no object with a value for each column")
        yield row
