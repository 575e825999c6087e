"""Rows of a table as JSON. An exported model needs it, and not what reads tables from files."""

from __future__ import annotations

import json

import pandas as pd


def to_json_rows(table: pd.DataFrame) -> list[str]:
    """The rows of a table, each as a JSON object of its columns; an empty cell is null."""
    cells = table.astype(object)
    rows = cells.where(cells.notna(), None).to_dict("records")
    return [json.dumps(row, ensure_ascii=False, default=str) for row in rows]
