"""Every text file and every pipe has an encoding, so that the locale of a machine changes nothing."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("experiments", "launchers", "modules")
NO_TEXT = {
    "os",
    "tarfile",
    "Image",
    "gzip",
    "lzma",
    "zipfile",
    "webbrowser",
    "opener",
    "safe_open",
    "shelve",
    "wave",
    "atomic",
    "archive",
    "self.tracker",
}
"""Names whose `open` or `write_text` opens no text file by the locale."""


def _lacks_encoding(call: ast.Call) -> bool:
    keywords = {keyword.arg for keyword in call.keywords}
    if "encoding" in keywords or None in keywords:
        return False
    if any(keyword.arg == "text" and ast.unparse(keyword.value) == "True" for keyword in call.keywords):
        return True
    is_method = isinstance(call.func, ast.Attribute)
    name = (
        call.func.attr
        if isinstance(call.func, ast.Attribute)
        else call.func.id
        if isinstance(call.func, ast.Name)
        else ""
    )
    if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in NO_TEXT:
        return False
    if name == "read_text":
        return is_method and not call.args
    if name == "write_text":
        return is_method and len(call.args) < 2
    if name != "open":
        return False
    modes = [
        *call.args[0 if is_method else 1 :][:1],
        *(keyword.value for keyword in call.keywords if keyword.arg == "mode"),
    ]
    return not modes or "b" not in ast.unparse(modes[0])


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_text_is_read_or_written_by_the_locale(folder: str) -> None:
    calls = (
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and _lacks_encoding(node)
    )
    assert [*calls] == []
