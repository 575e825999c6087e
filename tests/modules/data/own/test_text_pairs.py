"""Pairs of texts of a user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modules.data.base import DataError
from modules.data.own.text_pairs import TextPairs
from modules.data.text.pair_rows import find_auto_values

ROWS = [(f"Who owns house {n}?", f"Owner {n} does.") for n in range(20)]
CHOSEN: dict[str, Any] = {
    "source": "question", "target": "answer", "normalise": True, "tokens": "words", "source_vocab_size": 60,
    "target_vocab_size": 50, "min_count": 1, "max_source_tokens": 9, "max_target_tokens": 8, "on_bad_example": "error",
}  # fmt: skip


def write(folder: Path, name: str, *lines: str) -> dict[str, Any]:
    (folder / name).write_text("\n".join(lines) + "\n")
    return {**CHOSEN, "root": str(folder), "path": name}


def write_rows(folder: Path, name: str) -> dict[str, Any]:
    if name.endswith(".tsv"):
        return write(
            folder, name, "answer\tquestion", *(f"{answer}\t{question}" for question, answer in ROWS), "\tWhy?"
        )
    return write(folder, name, *(json.dumps({"question": one, "answer": other}) for one, other in ROWS))


@pytest.mark.parametrize("name", ["pairs.tsv", "pairs.jsonl"])
def test_pairs_are_divided_and_read_like_those_of_a_user(tmp_path: Path, name: str) -> None:
    data = write_rows(tmp_path, name)
    pairs = TextPairs(**data, **{key: value for key, value in find_auto_values(data).items() if key != "root"})
    splits = {split: pairs.load(split) for split in ("train", "val", "test")}
    assert [len(split) for split in splits.values()] == [16, 2, 2]
    (source, _), _ = pairs.example(3)
    assert source.shape == (3, 10)
    words, start = pairs.read(["Who owns house 3?"])
    assert (words.shape, start.shape) == ((1, 6), (1, 1))
    assert pairs.find_faults() == []
    (tmp_path / name).write_text("other")
    with pytest.raises(DataError, match="sha256"):
        TextPairs(**data, files={name: "0" * 64}, num_val=1, num_test=1).load("train")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("question,anser", "a,b"), r"data.target='answer': .* has no such column; its columns are 'question', 'anser'"),
        (("question,answer", "a,", ",b"), "has no row with both data.source='question' and data.target='answer'"),
        (("question,answer", "a,b", "a,c"), "has 1 different texts in 'question', but training"),
        (('{"question": "a", "answer": "b"}', "{"), "line 2 is no JSON object"),
    ],
)  # fmt: skip
def test_a_table_without_enough_pairs_is_refused(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_auto_values(write(tmp_path, "pairs.csv", *lines))
