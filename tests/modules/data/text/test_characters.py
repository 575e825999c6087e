import pytest
import torch

from modules.data.base import DataError
from modules.data.text.characters import Characters


def test_characters_are_numbered_by_code_point_and_come_back() -> None:
    characters = Characters("b\na zß", vocab_size=6)
    assert characters.kinds == "\n abzß"
    assert characters.encode("ab\nß").tolist() == [2, 3, 0, 5]
    assert characters.encode("ab").dtype == torch.int64
    assert characters.decode(characters.encode("ßa\n z")) == "ßa\n z"
    assert characters.decode(characters.encode("")) == ""


def test_a_vocabulary_may_be_larger_than_the_text_but_not_smaller() -> None:
    assert Characters("abca", vocab_size=4).encode("cab").tolist() == [2, 0, 1]
    with pytest.raises(
        DataError,
        match=r"data.vocab_size=2 is too small for the 3 different characters .* set data.vocab_size=3, or more",
    ):
        Characters("abca", vocab_size=2)


def test_an_unknown_character_is_reported() -> None:
    with pytest.raises(
        ValueError, match="encode wants the 3 characters that the data set knows, but got 'xé'; replace"
    ):
        Characters("abc", vocab_size=3).encode("axéb")
