"""Texts as pictures: to read, to translate, and of other data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image
from torch import Tensor

from modules.data.base import END, UNKNOWN, Data, DataError, HasReferences, InputReader, UserInputError
from modules.data.image.pictured_texts import PicturedTexts
from modules.data.tensors import TensorSplit
from tests.support.letter_pairs import TEXTS, LetterPairs


class Photos:
    def load(self, split: str) -> TensorSplit:
        return TensorSplit(torch.linspace(0, 1, 5 * 3 * 64).sin().view(5, 3, 8, 8), torch.zeros(5, dtype=torch.int64))


def make(photos: Any = None, **others: Any) -> PicturedTexts:
    options: dict[str, Any] = {
        "write": "source", "units": "lines", "height": 16, "max_width": 64, "font_sizes": [9, 12], "max_characters": 9,
        "num_characters": 30, "max_target_tokens": 12,
    }  # fmt: skip
    return PicturedTexts(LetterPairs(), photos, **{**options, **others})


def fetch(data: PicturedTexts, split: str, seed: int = 0) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    part = data.load(split)
    inputs, targets = part.batch(torch.arange(len(part)), torch.arange(len(part)) + seed)
    return cast(Sequence[Tensor], inputs), cast(Sequence[Tensor], targets)


@pytest.mark.parametrize("photos", [None, Photos()])
def test_a_picture_shows_its_text_and_only_training_pictures_change(photos: Any) -> None:
    data = make(photos)
    (pictures, widths, shifted), (target, numbers) = fetch(data, "train")
    assert [data.target_text(row.clamp_min(0)) for row in target] == ["a cat sat", "go"]
    assert [data.pair(number).references for number in numbers.tolist()] == [("a cat sat",), ("go",)]
    assert pictures.shape == (2, 1, 16, int(widths.max()))
    assert pictures.abs().max() <= 1
    assert widths.remainder(4).eq(0).all()
    assert widths[1] < widths[0], "a shorter text has a narrower picture"
    assert not pictures[1, :, :, int(widths[1]) :].any()
    assert (pictures[1, 0, :, : int(widths[1])].std(1) > 0.02).any(), "there is ink"
    assert shifted.shape == target.shape
    assert not torch.equal(fetch(data, "train", seed=9)[0][0][0, 0, :, :20], pictures[0, 0, :, :20])
    assert torch.equal(fetch(data, "test", seed=9)[0][0], fetch(data, "test")[0][0])
    part = data.load("train")
    alone = part.batch(torch.tensor([1]), torch.tensor([1]))[0]
    assert torch.equal(alone[0][0, 0], pictures[1, 0, :, : int(widths[1])]), "a picture does not depend on its batch"


def test_the_target_may_be_the_translation_with_the_tokens_of_the_texts() -> None:
    data = make(write="target")
    assert isinstance(data, HasReferences)
    assert isinstance(data, InputReader)
    _, (target, numbers) = fetch(data, "train")
    assert [data.target_text(row) for row in target] == ["eine`katze", "die`katze", "geh"]
    assert [data.pair(number).references[0] for number in numbers.tolist()] == ["eine katze", "die katze", "geh"]
    assert data.pair(int(numbers[1])).source == "a cat sat"


def test_a_word_is_in_one_split_only() -> None:
    data = make(units="words", max_characters=20)
    words = {split: {text for text, _ in data._list(split)} for split in TEXTS}
    assert set.union(*words.values()) == {word for rows in TEXTS.values() for text, _ in rows for word in text.split()}
    assert sum(map(len, words.values())) == len(set.union(*words.values()))


def test_characters_that_training_does_not_have_are_unknown_and_the_vocabulary_is_saved() -> None:
    data = make()
    assert data.encode_text("Ω") == [UNKNOWN]
    assert data.character_text(torch.tensor([*data.encode_text("a gΩ"), END, 9])) == "a g?"
    assert make(num_characters=6).characters == [" ", "a"], "the most frequent"
    other = make()
    other.restore_reader(data.save_reader())
    assert other.characters == data.characters


def test_pictures_of_a_user_are_scaled_to_the_height(tmp_path: Path) -> None:
    Image.new("RGB", (50, 32), "white").save(tmp_path / "a.png")
    Image.new("L", (9, 16)).save(tmp_path / "b.png")
    pictures, widths, start = make().read([str(tmp_path / "a.png"), str(tmp_path / "b.png")])
    assert pictures.shape == (2, 1, 16, 28)
    assert widths.tolist() == [28, 12]
    assert start.shape == (2, 1)
    with pytest.raises(UserInputError, match="cannot be read as an image"):
        make().read([str(tmp_path / "no.png")])


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"height": 4}, "wants a height of at least 8"),
        ({"max_width": 30}, "a max_width that is a multiple of 4"),
        ({"font_sizes": []}, r"wants font_sizes from 6 to the height, 16, but got \[\]"),
        ({"font_sizes": [40]}, r"but got \[40\]; set data.font_sizes=\[8\]"),
        ({"units": "words", "write": "target"}, "data.units='words' has no translations"),
        ({"num_characters": 3}, "wants num_characters of at least 5"),
    ],
)
def test_options_that_do_not_fit_are_refused(others: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**others)


def test_data_without_pairs_or_without_short_texts_are_reported() -> None:
    with pytest.raises(ValueError, match=r"data\.texts=Photos has no pairs of texts"):
        PicturedTexts(cast(Data, Photos()), None, "source", "lines", 16, 64, [9], 9, 30, 12)
    with pytest.raises(DataError, match=r"data\.max_characters=1: the split 'train' of data.texts has no text"):
        make(max_characters=1).load("train")
