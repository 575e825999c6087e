import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modules.data.base import DataError
from modules.data.text.byte_pairs import BytePairs

TEXT = "the cat sat on the mat\nthe hat that sat on the rat\n\n" * 3
KINDS = "".join(sorted({*TEXT, *"qßwp\t"}))

LEARN = """
import sys
from modules.data.text.byte_pairs import BytePairs
text, kinds = sys.argv[1:]
print(BytePairs(text, kinds, 30).encode(text).tolist())
"""


@pytest.mark.parametrize("text", [TEXT, "  two  spaces ", "\n\n a\n", "that\tßq", "q", ""])
def test_decoding_gives_the_text_back_to_the_last_space(text: str) -> None:
    pairs = BytePairs(TEXT, KINDS, vocab_size=30)
    assert pairs.decode(pairs.encode(text)) == text


def test_a_space_that_only_other_parts_have_gets_a_token() -> None:
    pairs = BytePairs("abab\nabba", "\n ab", vocab_size=7)
    assert pairs.decode(pairs.encode(" a  bab\n")) == " a  bab\n"


def test_frequent_text_becomes_one_token() -> None:
    pairs = BytePairs(TEXT, KINDS, vocab_size=30)
    tokens = pairs.encode(TEXT)
    assert tokens.dtype == torch.int64
    assert 0 < int(tokens.min()) <= int(tokens.max()) < 30
    assert len(tokens) < len(TEXT) / 1.5
    assert len(pairs.encode(" the")) < len(pairs.encode(" eht"))


def test_every_process_learns_the_same() -> None:
    outputs = [
        subprocess.run(
            [sys.executable, "-c", LEARN, TEXT, KINDS],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[3],
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1] == f"{BytePairs(TEXT, KINDS, 30).encode(TEXT).tolist()}\n"


def test_learning_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    BytePairs(TEXT, KINDS, vocab_size=30)
    assert capfd.readouterr() == ("", "")


def test_sizes_that_the_text_cannot_fill_are_refused_with_one_that_fits() -> None:
    least = len(KINDS) + 1
    smallest = BytePairs(TEXT, KINDS, least)
    assert sorted(smallest.decode(torch.tensor([token])) for token in range(1, least)) == list(KINDS)
    with pytest.raises(
        DataError,
        match=f"is too small for the {len(KINDS)} different characters .* set data.vocab_size={least} or more",
    ):
        BytePairs(TEXT, KINDS, least - 1)
    with pytest.raises(
        DataError, match=r"data.vocab_size=40 is more than the 18 tokens .* set data.vocab_size=18 or less"
    ):
        BytePairs("abc abd\nabe ", "\n abcde", 40)
    BytePairs("abc abd\nabe ", "\n abcde", 18)


def test_a_text_without_letters_is_refused() -> None:
    with pytest.raises(DataError, match=r"data.tokens=byte_pairs: nothing can be learnt from this text"):
        BytePairs("\n\n", "\n", 30)


def test_an_unknown_character_is_reported() -> None:
    with pytest.raises(ValueError, match=r"that the data set knows, but got 'x'; replace them"):
        BytePairs(TEXT, KINDS, 30).encode("the axe")
