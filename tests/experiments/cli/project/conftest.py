"""A user who has trusted nothing yet."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture
def new_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own settings, and no variable of Lathe; what a project sets in this process is put back after the test."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("LATHE_RUNS", "LATHE_DATA", "LATHE_SWEEPS", "PYTHONPATH"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(sys, "path", [*sys.path])
