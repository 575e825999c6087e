"""`lathe data check` lists what cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.cli.main import main
from tests.support.own_data import write_photos, write_reviews, write_sounds, write_table

SIZES = ("data.image_size=8", "data.resize_size=9")


def test_every_unreadable_and_ignored_file_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_photos(tmp_path)
    command = ["data", "check", "data=image_folder", f"data.folder={folder}", *SIZES]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines() == [
        "train: 16 examples of 2 classes, ant 8 to ant 8", "val: 2 examples of 2 classes, ant 1 to ant 1",
        "test: 2 examples of 2 classes, ant 1 to ant 1", "every example can be read",
    ]  # fmt: skip
    (folder / "bee" / "notes.txt").touch()
    for name in ("3.png", "5.png"):
        (folder / "ant" / name).write_bytes(b"no image")
    assert main(command) == 1
    assert "faults: 2" in capsys.readouterr().out
    (folder / "bee" / "same.png").write_bytes((folder / "bee" / "1.png").read_bytes())
    assert main(command) == 1
    assert capsys.readouterr().out.splitlines()[:4] == [
        "  ant/3.png cannot be read as a photo (unknown format)", "  ant/5.png cannot be read as a photo (unknown format)",
        "  note: bee/same.png has the same content as bee/1.png", "  note: bee/notes.txt is left out",
    ]  # fmt: skip


def test_lines_and_recordings_that_cannot_be_read_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_reviews(tmp_path)
    path.write_text(path.read_text() + "no row\n")
    assert main(["data", "check", "data=jsonl", f"data.path={path}", "data.target=label"]) == 1
    assert f"  {path}, line 41 is no row" in capsys.readouterr().out.splitlines()
    (write_sounds(tmp_path) / "low" / "3.wav").write_bytes(b"RIFF")
    assert main(["data", "check", "data=audio_folder", f"data.folder={tmp_path / 'sounds'}"]) == 1
    assert "  low/3.wav cannot be read as a recording (it is no WAV file)" in capsys.readouterr().out.splitlines()
    assert main(["data", "check", "data=jsonl", f"data.pth={path}", "data.target=label"]) == 2
    assert "data.pth" in capsys.readouterr().err


def test_a_split_that_cannot_be_read_is_one_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_table(tmp_path)
    words = [f"data.path={path}", "data.target=price", "data.test_path=other.csv", f"data.root={tmp_path}"]
    (tmp_path / "other.csv").write_text("area,price\n1,2\n")
    assert main(["data", "check", "data=csv", *words]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train: 180 examples"
    assert "there is no column 'city', which the model was trained with" in lines[2]
    assert lines[3] == "faults: 1"
