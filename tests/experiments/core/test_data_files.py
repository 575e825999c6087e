from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.core.data_files import MissingFiles, find_missing
from experiments.results.zoo.measure import missing_data


@pytest.mark.parametrize(
    ("files", "absent"),
    [(["a", "b", "c"], ["b", "c"]), ({"b": None}, ["b"]), (["a"], None), ({}, None)],
)
def test_listed_files_must_exist(tmp_path: Path, files: Any, absent: list[str] | None) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").touch()
    missing = find_missing({"root": str(tmp_path), "folder": "set", "files": files})
    assert missing == (None if absent is None else MissingFiles(tmp_path / "set", absent))


def test_data_without_listed_files_needs_its_folder(tmp_path: Path) -> None:
    data = {"root": str(tmp_path), "folder": "set"}
    assert find_missing(data) == MissingFiles(tmp_path / "set", [])
    (tmp_path / "set").mkdir()
    assert find_missing(data) is None


def test_the_zoo_reports_an_unset_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_DATA", raising=False)
    message = missing_data({"root": "${oc.env:MY_DATA}", "folder": "set"})
    assert message == "its data is missing: data.root=${oc.env:MY_DATA} needs MY_DATA; `export MY_DATA=...`"
