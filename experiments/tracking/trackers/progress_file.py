"""The file in a run folder that says how much of the run a tracker has."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experiments.core import atomic, renamed
from experiments.core.files.field_types import is_map, is_text, matches
from experiments.core.files.read_file import DamagedFileError, read_json_map


@dataclass
class RunProgress:
    """How much of a run a tracker has; for MLflow `sync.json` in the run folder, for another tracker `sync_LABEL.json`."""

    store: str
    run_id: str = ""
    experiment_id: str = ""
    offsets: dict[str, int] = field(default_factory=dict)  # attempt -> bytes of its journal
    evaluations: list[str] = field(default_factory=list)  # numbers of those that it has
    artifacts: list[str] = field(default_factory=list)  # paths still to upload
    last_state: dict[str, Any] | None = None
    last_time: float = 0.0
    name: str = ""
    tags: dict[str, str] = field(default_factory=dict)  # only those that change
    status: list[Any] | None = None  # state, end time
    model: str = ""  # id of the final model, once it is logged
    versions: dict[str, str] = field(default_factory=dict)  # its versions by registered name

    @classmethod
    def load(cls, path: Path, name: str) -> RunProgress:
        """Read the file; start over if it is missing, damaged or about another store."""
        try:
            progress = cls(**read_json_map(path))
            if not matches(vars(progress), {"store": is_text, "run_id": is_text, "offsets": is_map, "tags": is_map}):
                raise TypeError("a field has a value of the wrong type")
            if progress.last_state is not None:  # the first version stored its own names of states
                progress.last_state["state"] = renamed.state(progress.last_state["state"])
        except (DamagedFileError, TypeError, KeyError):
            return cls(store=name)
        return progress if progress.store == name else cls(store=name)

    def save(self, path: Path) -> None:
        atomic.write_text(path, json.dumps(asdict(self), indent=1) + "\n")
