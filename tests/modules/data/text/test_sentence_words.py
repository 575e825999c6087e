from __future__ import annotations

import pytest

from modules.data.base import UNKNOWN, DataError
from modules.data.text.sentence_words import SPECIAL, SentencePieces, SentenceWords, normalise

SENTENCES = ["the cat sat", "the dog sat on the cat", "a mat"]


def test_word_ids_follow_the_special_ones_by_frequency() -> None:
    words = SentenceWords(SENTENCES, 7, 2)
    assert words.words == ["<pad>", "<s>", "</s>", "<unk>", "the", "cat", "sat"]
    assert words.encode("the mat  sat") == [4, UNKNOWN, 6]
    assert words.decode([4, UNKNOWN, 6, 99]) == "the <unk> sat <unk>"
    assert SentenceWords(SENTENCES, 5, 1).words[len(SPECIAL) :] == ["the"]
    assert SentenceWords(["<s> <pad>"], 9, 1).encode("<s>") != [1], "a word that looks like a special one is a word"


def test_only_unknown_words_of_user_text_are_normalised() -> None:
    words = SentenceWords(["the dog 's mat ."], 20, 1)
    assert words.adapt("The dog 's  mat.") == "the dog 's mat ."
    assert words.adapt("«The»,dog") == "« the » , dog"


def test_normalised_text_is_lower_case_with_spaces_around_punctuation() -> None:
    assert normalise(" J'ai  dit: «\u202fÇa va?\u202f»") == "j ' ai dit : « ça va ? »"


def test_byte_pairs_round_trip_and_report_unknown_characters() -> None:
    pieces = SentencePieces([*SENTENCES, "the mat sat on a dog"], 24)
    for text in (*SENTENCES, "a cat sat on dogs"):
        numbers = pieces.encode(text)
        assert min(numbers) > UNKNOWN
        assert max(numbers) < 24
        assert pieces.decode(numbers) == text
    assert pieces.encode("zz")[:1] == [UNKNOWN]
    assert pieces.decode(pieces.encode("the z cat")) == "the <unk> cat"
    assert pieces.decode([UNKNOWN, UNKNOWN]) == "<unk><unk>"
    assert pieces.decode([]) == ""
    assert pieces.adapt(" a  cat ") == "a cat"
    with pytest.raises(DataError, match=r"data.vocab_size=2 is too small"):
        SentencePieces(SENTENCES, 5)
