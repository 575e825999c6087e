"""Texts of a user, named by a path."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from modules.data.own.characters import find_auto_values
from modules.data.own.text import Text

BOOK = "Once upon a time, there was a naïve café owner. " * 40
CHOSEN: dict[str, Any] = {"tokens": "characters", "context_tokens": 16, "shift": True}
AUTO = dict.fromkeys(("files", "vocab_size", "num_train_tokens", "num_train"), "auto")


@pytest.mark.parametrize("path", ["book.txt", "more/book.txt.gz"])
def test_sizes_are_counted(tmp_path: Path, path: str) -> None:
    (tmp_path / "more").mkdir()
    content = BOOK.encode()
    (tmp_path / path).write_bytes(gzip.compress(content) if path.endswith(".gz") else content)
    data = {**CHOSEN, **AUTO, "root": str(tmp_path), "path": path}
    found = {**data, **find_auto_values(data)}
    assert found["vocab_size"] == len(set(BOOK))
    text = Text(**found)
    assert len(text.load("train")) == found["num_train"]
    inputs, _ = text.load("val").batch(*[text.load("val").tokens.new_zeros(1)] * 2)
    assert text.tokenizer.decode(inputs[0]) in BOOK


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe", "no text in UTF-8"), (b"", "has 0 characters"), (b"short", "less than a window")],
)
def test_a_text_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "book.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        find_auto_values({**CHOSEN, **AUTO, "root": str(tmp_path), "path": "book.txt"})
    with pytest.raises(ValueError, match="cannot be read"):
        find_auto_values({**CHOSEN, **AUTO, "root": str(tmp_path.parent), "path": tmp_path.name})


def test_byte_pairs_need_no_count(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(BOOK)
    data = {**CHOSEN, **AUTO, "root": str(tmp_path), "path": "book.txt", "tokens": "byte_pairs", "vocab_size": 60}
    assert Text(**{**data, **find_auto_values(data)}).load("train").tokens.max() < 60
