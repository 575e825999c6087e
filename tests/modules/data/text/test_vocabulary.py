import torch

from modules.data.text import vocabulary
from modules.data.text.vocabulary import Vocabulary


def test_words_are_numbered_by_frequency_then_by_the_alphabet() -> None:
    actual = Vocabulary(["the cat sat on the mat", "The dog's mat, the 2 dogs"], vocab_size=100, min_count=1)
    assert list(actual.words) == ["the", "mat", "cat", "dog", "dogs", "on", "s", "sat"]
    assert actual.counts.tolist() == [4, 2, 1, 1, 1, 1, 1, 1]


def test_rare_words_have_no_number_and_are_left_out() -> None:
    actual = Vocabulary(["a b a c b a"], vocab_size=100, min_count=2)
    assert actual.encode("c a b d A").tolist() == [0, 1, 0]
    assert actual.encode("c d").tolist() == []
    assert Vocabulary(["a b a c b a"], vocab_size=1, min_count=1).words == ["a"]


def test_a_long_text_is_read_in_blocks_that_cut_no_word() -> None:
    text = " ".join(["größer", "kleiner"] * 50)
    whole = Vocabulary([text], 10, 1)
    before, vocabulary._BLOCK = vocabulary._BLOCK, 3
    try:
        actual = Vocabulary([text], 10, 1)
        assert actual.counts.tolist() == whole.counts.tolist() == [50, 50]
        assert torch.equal(actual.encode(text), whole.encode(text))
    finally:
        vocabulary._BLOCK = before
