"""No argument of any command ends in a traceback, hangs, or is taken for something that the user did not name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli.main import main
from tests.support.ledgers import make_idle_sweep
from tests.support.stores import make_run

X = "X"
"""Stands for the hostile value."""
COMMANDS = [
    ["plan", "--cfg", "--config-dir", X], ["plan", "--from", X], ["run", "--from", X], ["resume", X], ["sweep", X],
    ["status", X], ["logs", X], ["cancel", X], ["rm", X], ["tag", X, "a=b"], ["sync", X], ["ui", "--store", X],
    ["ui", "--sweep", X], ["diff", X, X], ["reproduce", X], ["share", X, "-o", "x.yaml"], ["share", "a1b2c3", "-o", X],
    ["export", X, "-o", "x"], ["predict", X], ["predict", X, "image.png"], ["report", X], ["simulate", X], ["data", "-cd", X],
    ["options", "-cd", X], ["ls", "--runs-dir", X], ["status", "--runs-dir", X],
    ["cluster", "status", "--dir", X], ["_complete", "lathe", "resume", X], ["_complete", "lathe", "run", "-cd", X, ""],
]  # fmt: skip
VALUES = {
    "unknown user": "~nosuchuser/a", "long name": "a" * 5000, "long in bytes": "é" * 200, "long path": "a/" * 3000,
    "NUL": "a\0b", "no UTF-8": "\udcff", "folder": "folder", "file": "file", "file as folder": "file/inside", "FIFO": "fifo",
    "loop": "loop", "dangling": "dangling", "proc": "/proc", "unreadable": "/proc/self/mem", "device": "/dev/zero",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with one run, one sweep, and odd files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setenv("LATHE_DATA", str(tmp_path))
    for name in ("LATHE_RUNS", "LATHE_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    make_run(tmp_path / "runs")
    make_idle_sweep(tmp_path / "runs", "probe", [{"lr": 1}])
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"\xff\x00")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_value_ends_in_a_traceback(command: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failures = {}
    for kind, value in VALUES.items():
        code = main([value if part == X else part for part in command])
        shown = capsys.readouterr().err
        may_be_fine = kind == "folder" or (
            command[0] in ("_complete", "data", "options", "cluster") or "--runs-dir" in command or "-cd" in command
        )
        is_refused = code == 2 and shown and "a problem" in shown
        if "Traceback" in shown or "error of its own" in shown or not (is_refused or may_be_fine):
            failures[kind] = (code, shown[:500])
    assert failures == {}


@pytest.mark.parametrize(
    "command",
    [
        ["resume", X], ["reproduce", X], ["share", X, "-o", "a.yaml"], ["export", X, "-o", "a"], ["predict", X], ["sync", X],
        ["cancel", X], ["cancel", "probe", X], ["logs", X], ["logs", "probe", X], ["status", X], ["report", X],
        ["report", "probe", X],        ["ui", "--sweep", X], ["ui", "--store", X], ["ui", "--experiment", X], ["sweep", X],
        ["share", "a1b2c3", "-o", X],
        ["export", "a1b2c3", "-o", X], ["reproduce", "a1b2c3", "--check", X], ["ls", "--sort", X],
        ["plan", "--from", X], ["plan", "--config-dir", X], ["plan", "--trust", X], ["plan", X], ["simulate", "--against", X],
    ],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_value_is_refused(
    command: list[str], value: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in (folder / "runs").rglob("*") if path.is_file()}
    assert main([value if part == X else part for part in command]) == 2
    assert capsys.readouterr().err.count("\n  - ") == 1
    assert {path: path.read_bytes() for path in (folder / "runs").rglob("*") if path.is_file()} == before


def test_an_error_of_lathe_is_reported_in_two_lines(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("experiments.results.search.search.search", lambda *_: 1 / 0)
    assert main(["ls"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("lathe failed by an error of its own, ZeroDivisionError: division by zero (")
    (kept,) = folder.glob("lathe-traceback-*.txt")
    assert str(kept) in second
    assert "Traceback (most recent call last)" in kept.read_text(encoding="utf-8")
    monkeypatch.setenv("LATHE_TRACEBACK", "1")
    assert main(["ls"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_error_in_the_users_code_keeps_its_frames(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mine.py").write_text("def search(*_):\n    raise RuntimeError('of mine')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr("experiments.results.search.search.search", __import__("mine").search)
    assert main(["ls"]) == 1
    assert "raise RuntimeError('of mine')" in capsys.readouterr().err


@pytest.mark.parametrize("number", [2, 13, 28])
def test_an_error_of_the_file_system_names_the_file(
    number: int, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), "/a/file")

    monkeypatch.setattr("experiments.results.search.search.search", fail)
    assert main(["ls"]) == (1 if number == 28 else 2)
    assert f"/a/file: {os.strerror(number)}; " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("--version >&-", 0, ""),
        ("--version >&- 2>&- <&-", 0, ""),
        (
            "options model > /dev/full",
            1,
            "the output cannot be written: No space left on device; free space, or write to another disk\n",
        ),
    ],
)
def test_output_that_is_closed_or_full(arguments: str, code: int, message: str, tmp_path: Path) -> None:
    command = f'"{sys.executable}" -P -m experiments.cli {arguments}'
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, message)
