"""A text in the tokens of a local tokenizer, made here and tiny."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.data.base import DataError
from modules.data.own.pretrained_text import PretrainedText
from modules.data.own.tokenizer_file import find_auto_values

WORDS = ["once", "upon", "a", "time", "<unk>"]
TOKENIZER = {
    "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None, "decoder": None,
    "added_tokens": [
        {"id": 7, "content": "<pad>", "special": True, **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)},
    ],
    "pre_tokenizer": {"type": "Whitespace"},
    "model": {"type": "WordLevel", "vocab": {word: number for number, word in enumerate(WORDS)}, "unk_token": "<unk>"},
}  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (tmp_path / "book.txt").write_text("once upon a time " * 50)
    chosen = {"root": str(tmp_path), "path": "book.txt", "tokenizer": str(tmp_path / "bert"), "context_tokens": 4}
    return chosen | find_auto_values(chosen)


def test_the_size_of_the_vocabulary_includes_added_tokens(data: dict[str, Any]) -> None:
    assert data["vocab_size"] == 8
    inputs, _ = PretrainedText(**data).example(2)
    assert isinstance(inputs, torch.Tensor)
    assert inputs.shape == (2, 4)


def test_a_text_has_the_tokens_of_the_folder(data: dict[str, Any]) -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is an extra: pip install 'lathe-dl[models]'")
    text = PretrainedText(**data)
    val = text.load("val")
    assert {*val.tokens.tolist()} <= {0, 1, 2, 3, 4}
    assert text.read(["a time", "once zebra"]).tolist() == [[2, 3], [0, 4]]
    restored = PretrainedText(**data)
    restored.restore_reader(text.save_reader())
    assert restored.tokenizer.decode(torch.tensor([0, 3])) == "once time"


def test_another_tokenizer_than_at_the_start_is_refused(data: dict[str, Any]) -> None:
    path = Path(data["tokenizer"]) / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(DataError, match=r"tokenizer.json has changed since the run was frozen; restore it"):
        PretrainedText(**data).load("train")
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json is no tokenizer \('model'\); save it again"):
        find_auto_values(data)
    path.unlink()
    with pytest.raises(ValueError, match="name a folder that save_pretrained of a fast tokenizer wrote"):
        find_auto_values(data)
