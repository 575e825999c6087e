"""A frozen trial on disk: what was asked, with which code, and what became of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Trial:
    """One frozen configuration in its run folder: `trial.yaml`, `provenance.yaml`, `code/`, `attempts/`, `checkpoints/`."""

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration; `${oc.env:NAME}` alone stays open until a process needs it."""
        config: dict[str, Any] = yaml.safe_load((self.folder / "trial.yaml").read_text())
        return config

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Where it came from: trial_id, run_key, created, overrides, code, host, python, packages, data."""
        provenance: dict[str, Any] = yaml.safe_load((self.folder / "provenance.yaml").read_text())
        return provenance

    @property
    def id(self) -> str:
        return str(self.provenance["trial_id"])

    @property
    def runs_dir(self) -> Path:
        return self.folder.parent.parent

    def attempts(self) -> list[Path]:
        """Folders of the attempts, first to last."""
        return sorted((self.folder / "attempts").glob("[0-9]*"), key=lambda path: int(path.name))

    def outcome(self) -> dict[str, Any] | None:
        """What the launching side saw of the last attempt (status, attempt, reason, ended), or None while it runs."""
        try:
            outcome: dict[str, Any] = json.loads((self.folder / "outcome.json").read_text())
        except FileNotFoundError:
            return None
        return outcome
