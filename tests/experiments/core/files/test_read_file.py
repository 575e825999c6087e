"""Damaged, hostile and odd files end in one error that names the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from experiments.core.errors import InputError
from experiments.core.files.paths import user_path
from experiments.core.files.read_file import (
    DamagedFileError,
    MissingFileError,
    read_json_map,
    read_text,
    read_yaml_map,
)

BOMB = "a0: &x0 [1, 1]\n" + "".join(f"a{i}: &x{i} [*x{i - 1}, *x{i - 1}]\n" for i in range(1, 40))
DAMAGED_YAML = {
    "empty": "", "blank": " \n", "comment": "# x\n", "list": "[1]", "number": "5", "open": "a: [",
    "two documents": "a: 1\n---\nb: 1",
    "key is no text": "5: a", "deep flow": "a: " + "[" * 100_000, "deep map": "{a: " * 100_000, "deep block": "- " * 100_000,
    "deep keys": "? " * 100_000, "deep indentation": "\n".join(" " * i + "a:" for i in range(300)), "cycle": "a: &x [*x]",
    "bomb": BOMB, "digits": "a: " + "9" * 5000, "python": "a: !!python/object/apply:os.system [ls]", "bool": "a: !!bool x",
    "int": "a: !!int x", "timestamp": "a: !!timestamp x", "set": "a: !!set {b}", "binary": "a: !!binary x",
    "control": "a: \x00", "unhashable": "? [a]\n: 1",
}  # fmt: skip
DAMAGED_JSON = {
    "empty": "", "cut": '{"a": 1', "list": "[]", "text": '"a"', "deep": "[" * 100_000, "deep map": '{"a":' * 100_000,
    "closed and deep": '{"a":' * 200 + "1" + "}" * 200, "digits": '{"a": ' + "9" * 5000 + "}", "binary": "\x00\x01",
}  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED_YAML.values(), ids=DAMAGED_YAML)
def test_damaged_yaml_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "it.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(DamagedFileError, match=r"it\.yaml is damaged: "):
        read_yaml_map(tmp_path / "it.yaml")


@pytest.mark.parametrize("text", DAMAGED_JSON.values(), ids=DAMAGED_JSON)
def test_damaged_json_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "it.json").write_text(text, encoding="utf-8")
    with pytest.raises(DamagedFileError, match=r"it\.json is damaged: "):
        read_json_map(tmp_path / "it.json")


def test_dates_and_aliases_are_plain_values(tmp_path: Path) -> None:
    (tmp_path / "it.yaml").write_text("a: 2026-11-29\nb: &x [1, 2]\nc: *x\n", encoding="utf-8")
    assert read_yaml_map(tmp_path / "it.yaml") == {"a": "2026-11-29", "b": [1, 2], "c": [1, 2]}


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "latin1").write_bytes(b"name: \xe4")
    for name, cause in (
        ("fifo", "not a regular file"), (".", "not a regular file"), ("loop", "cannot be read"), ("latin1", "not UTF-8"),
        ("/dev/zero", "not a regular file"), ("a" * 300, "cannot be read"), ("a\0b", "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(DamagedFileError, match=cause):
            read_text(tmp_path / name)
    for name in ("nothing", "latin1/inside"):
        with pytest.raises(MissingFileError):
            read_text(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("~nosuchuser/a", "--flag ~nosuchuser/a: there is no user 'nosuchuser'"),
        ("", "--flag is empty"),
        (" ", "--flag is empty"),
        ("a" * 256, "a name has more than 255 bytes"),
        ("ü" * 128, "a name has more than 255 bytes"),
        ("a/" * 3000, "the path has more than 4095 bytes"),
        ("a\0b", "has a NUL character"),
    ],
)
def test_a_path_that_cannot_be_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        user_path(text, "--flag")
