"""The file `sync.json` of a sweep: how much of the sweep is in the store, so that a sync uploads only what is new."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experiments.core import atomic
from experiments.core.files.field_types import Check, is_count, is_map, is_text, matches
from experiments.core.files.read_file import DamagedFileError, read_json_map

_FIELDS: Mapping[str, Check] = {
    "store": is_text,
    "run_id": is_text,
    "children": is_map,
    "points": is_count,
    "tags": is_map,
}


@dataclass
class SweepUploadProgress:
    """How much of a sweep is in the store."""

    store: str
    run_id: str = ""
    experiment_id: str = ""
    children: dict[str, list[str]] = field(default_factory=dict)  # by trial: its run id, and the last uploaded state
    points: int = 0  # uploaded points of the sweep's own curves
    tags: dict[str, str] = field(default_factory=dict)
    status: list[Any] | None = None
    spec: str = ""  # hash of the uploaded sweep.yaml
    report: str = ""  # hash of the uploaded report page
    view: str = ""  # hash of the uploaded view
    view_key: str = ""  # its key in a link; "" if the UI of the store has no saved views
    artifacts: list[str] = field(default_factory=list)  # not uploaded yet

    @classmethod
    def load(cls, path: Path, name: str) -> SweepUploadProgress:
        """Read the file; start over if it is missing, damaged or about another store."""
        try:
            progress = cls(**read_json_map(path))
            if not matches(vars(progress), _FIELDS):
                raise TypeError("a field has a value of the wrong type")
        except (DamagedFileError, TypeError):
            return cls(store=name)
        return progress if progress.store == name else cls(store=name)

    def save(self, path: Path) -> None:
        atomic.write_text(path, json.dumps(asdict(self)) + "\n")
