"""A text in the tokens of a local tokenizer, made here and tiny."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.data.base import DataError
from modules.data.own.pretrained_text import PretrainedText
from modules.data.own.tokens.labelled_texts import LabelledTexts
from modules.data.own.tokens.tokenizer_file import find_auto_values, find_values_of_labelled_texts

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


REVIEWS = [("once a time", "good"), ("upon", "bad"), ("", "good"), ("a zebra time once upon a time", "bad")] * 3


@pytest.fixture(params=["csv", "jsonl"])
def labelled(data: dict[str, Any], request: pytest.FixtureRequest) -> dict[str, Any]:
    lines = [f"{text},{label}" for text, label in REVIEWS]
    if request.param == "jsonl":
        lines = [json.dumps({"text": text, "label": label}) for text, label in REVIEWS]
    path = Path(data["root"]) / "reviews"
    path.write_text("\n".join(["text,label", *lines] if request.param == "csv" else lines))
    chosen = {
        "root": data["root"], "path": "reviews", "text": "text", "target": "label", "tokenizer": data["tokenizer"],
        "max_tokens": 5, "val_path": "auto", "test_path": "reviews", "fold": None, "held_out_share": 0.1,
        "on_bad_example": "error",
    }  # fmt: skip
    return chosen | find_values_of_labelled_texts(chosen)


def test_a_table_of_texts_is_described_without_its_tokens(labelled: dict[str, Any]) -> None:
    assert (labelled["classes"], labelled["num_train"], labelled["vocab_size"]) == (["bad", "good"], 10, 8)
    with pytest.raises(
        ValueError, match=r"data.text='review': reviews has no such column; its columns are 'text', 'label'"
    ):
        find_values_of_labelled_texts({**labelled, "text": "review"})
    (ids, mask), targets = LabelledTexts(**labelled).example(2)
    assert ids.shape == mask.shape == (2, 5)
    assert targets.shape == (2,)  # type: ignore[union-attr]


def test_texts_are_cut_and_padded_with_their_masks(labelled: dict[str, Any]) -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is an extra: pip install 'lathe-dl[models]'")
    data = LabelledTexts(**labelled)
    split = data.load("test")
    (ids, mask), targets = split.batch(torch.arange(4), torch.zeros(4))
    assert ids.tolist() == [[0, 2, 3, 5, 5], [1, 5, 5, 5, 5], [5] * 5, [2, 4, 3, 0, 1]]
    assert mask.sum(1).tolist() == [3, 1, 0, 5]
    assert targets.tolist() == [1, 0, 1, 0]  # type: ignore[union-attr]
    assert torch.equal(data.read(["upon"])[0], ids[1:2])
