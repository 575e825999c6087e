"""Atomic writes leave the old text or the new one, never a part, and no temporary files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from experiments.core import atomic
from experiments.core.atomic import write_text


def test_a_write_replaces_the_old_text(tmp_path: Path) -> None:
    path = tmp_path / "outcome.json"
    write_text(path, "old")
    write_text(path, "nëw\n")
    assert path.read_text(encoding="utf-8") == "nëw\n"
    assert os.listdir(tmp_path) == ["outcome.json"]


def test_a_crash_before_the_rename_leaves_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "outcome.json"
    write_text(path, "old")

    def refuse(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["outcome.json"]


def test_file_and_folder_are_synced_around_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        events.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        fsync(descriptor)

    def noted_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write_text(tmp_path / "a.txt", "x")
    assert events == ["sync file", "rename", "sync folder"]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "nowhere" / "a.txt", "x")


NAMES = ("sync.json", "outcome.json", "best.json", ".index.json", "name with spaces.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_partial_file_of_a_killed_writer_is_removed_by_the_next(tmp_path: Path, name: str) -> None:
    left, others = (
        tmp_path / f".{name}.0a1b2c3d.partial",
        (tmp_path / f".other{name}.0a1b2c3d.partial", tmp_path / name),
    )
    left.write_text("ha")
    others[0].write_text("of another file")
    write_text(tmp_path / name, "whole")
    assert {*tmp_path.iterdir()} == {*others}


def test_partial_file_of_a_living_writer_stays(tmp_path: Path) -> None:
    path = tmp_path / "sync.json"
    with atomic.open_partial(path) as (file, partial):
        write_text(path, "of another process")
        file.write(b"late")
        file.flush()
        partial.replace(path)
    assert path.read_text() == "late"


def test_writer_whose_partial_file_was_removed_writes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, fsync = tmp_path / "sync.json", os.fsync

    def remove_once(descriptor: int) -> None:  # as another writer does on a file system whose locks do nothing
        fsync(descriptor)
        monkeypatch.setattr(os, "fsync", fsync)
        for partial in tmp_path.glob(".*.partial"):
            partial.unlink()

    monkeypatch.setattr(os, "fsync", remove_once)
    write_text(path, "x")
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("sync.json", "x")]
