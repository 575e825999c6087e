"""Reads a table with two texts in each row. Imports no torch, see `modules.data.own.locate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.data.own.columns import to_text
from modules.data.own.locate import find_root, sha256_of
from modules.data.own.table_files import read_rows

Pairs = list[tuple[str, str]]


def read_pairs(path: Path, source: str, target: str, on_bad_example: str = "error") -> tuple[Pairs, tuple[str, ...]]:
    """Read two columns of a table, and list the lines that are left out; rows that lack one of both texts are left out too.

    Args:
        path, on_bad_example: as for `read_rows`.
        source, target: names of the columns.

    Raises:
        ValueError: the file cannot be read as a table, has no such column or no pair.
    """
    rows = read_rows(path, on_bad_example)
    names = [str(name) for name in rows.table.columns]
    for key, name in (("source", source), ("target", target)):
        if name not in names:
            found = ", ".join(map(repr, names)) or "none"
            raise ValueError(f"data.{key}={name!r}: {path} has no such column; its columns are {found}")
    texts = rows.table[[source, target]].dropna()
    pairs = [(to_text(one), to_text(other)) for one, other in texts.itertuples(index=False)]
    if not pairs:
        raise ValueError(f"{path} has no row with both data.source={source!r} and data.target={target!r}; add some")
    return pairs, rows.skipped


def find_auto_values(data: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `TextPairs` that its file determines.

    Raises:
        ValueError: the file is missing or cannot be read, or has too few pairs for three splits.
    """
    root = find_root(data, "path")
    path = Path(root, str(data["path"]))
    digest = sha256_of(path)
    source, target = str(data["source"]), str(data["target"])
    sources = {pair[0] for pair in read_pairs(path, source, target, str(data["on_bad_example"]))[0]}
    if len(sources) < 3:
        raise ValueError(
            f"data.path={data['path']!r} has {len(sources)} different texts in {source!r}, but training, validation and test "
            "need 3 or more; add rows"
        )
    held_out = max(1, len(sources) // 10)
    return {"root": root, "files": {str(data["path"]): digest}, "num_val": held_out, "num_test": held_out}
