import gzip
import os
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from modules.data.base import DataError
from modules.data.ptb import Ptb, PtbVocabulary
from tests.support.batches import fetch

FILES = {"tiny.train.txt.gz": None, "tiny.valid.txt.gz": None, "tiny.test.txt.gz": None}
TRAIN = " the cat sat on the mat \n a <unk> sat \n the N \n"  # 3 line ends, 3 "the", 2 "sat", and 6 words once


def _write(folder: Path, **texts: str) -> None:
    for split, text in texts.items():
        (folder / f"tiny.{split}.txt.gz").write_bytes(gzip.compress(text.encode()))


@pytest.fixture
def root(tmp_path: Path) -> str:
    (tmp_path / "tiny").mkdir()
    _write(tmp_path / "tiny", train=TRAIN, valid=" a cat \n on the cat \n", test=" N mat \n")
    return str(tmp_path)


def _data(
    root: str,
    vocab_size: int = 9,
    context_tokens: int = 2,
    num_train_tokens: int | None = None,
    num_train: int | None = None,
) -> Ptb:
    return Ptb(root, "tiny", FILES, vocab_size, context_tokens, num_train_tokens, num_train, True)


def _plain(text: str) -> str:
    """Without the spaces at the ends of lines."""
    return "\n".join(line.strip() for line in text.split("\n"))


def test_words_are_numbered_by_how_often_they_come_and_then_by_the_alphabet(root: str) -> None:
    assert _data(root).tokenizer.kinds == ["<eos>", "the", "sat", "<unk>", "N", "a", "cat", "mat", "on"]


def test_the_splits_give_their_files_back(root: str) -> None:
    data = _data(root)
    message = {split: data.tokenizer.decode(data.load(split).tokens) for split in ("train", "val", "test")}
    assert message == {"train": _plain(TRAIN), "val": "a cat\non the cat\n", "test": "N mat\n"}
    assert data.load("val").tokens.tolist() == [5, 6, 0, 8, 1, 6, 0]


def test_empty_lines_and_a_missing_last_line_end_come_back() -> None:
    words = PtbVocabulary(["a", "<eos>"])
    for text in ("\n\n\na\n\n\na", "a\n", "a a", ""):
        assert words.decode(words.encode(text)) == text
    assert words.encode("a").dtype == torch.int64


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_batch_looks_like_the_example(root: str, split: str) -> None:
    data = _data(root)
    batch = fetch(data.load(split), torch.arange(3))
    for real, blank in zip(batch, data.example(3), strict=True):
        real, blank = cast(Tensor, real), cast(Tensor, blank)
        assert (real.shape, real.dtype) == (blank.shape, blank.dtype) == ((3, 2), torch.int64)
        assert not blank.any()


def test_a_smaller_set_keeps_the_whole_vocabulary(root: str) -> None:
    data = _data(root, num_train_tokens=7, num_train=3)
    assert data.tokenizer.decode(data.load("train").tokens) == "the cat sat on the mat\n"
    assert len(data.tokenizer.kinds) == 9


def test_numbers_that_do_not_fit_the_files_are_reported(root: str) -> None:
    with pytest.raises(
        DataError, match=r"data.vocab_size=8 is too small for the 9 different words in tiny\.train\.txt\.gz; .*=9"
    ):
        _data(root, vocab_size=8).load("test")
    with pytest.raises(
        DataError, match=r"the split 'train' has 14 tokens, but data.num_train_tokens=15; .*=14 data.num_train=6"
    ):
        _data(root, num_train_tokens=15).load("train")
    with pytest.raises(
        DataError, match=r"the split 'test' has 3 tokens, .* data.context_tokens=3 .* lower it to 2 or less"
    ):
        _data(root, context_tokens=3).load("test")
    with pytest.raises(ValueError, match=r"set data.num_train=6, or null"):
        _data("/nowhere", num_train_tokens=14, num_train=7)


def test_a_word_that_training_does_not_have_is_reported_with_its_file(root: str) -> None:
    _write(Path(root) / "tiny", valid=" the dog sat \n")
    with pytest.raises(
        DataError, match=r"tiny\.valid\.txt\.gz is damaged .* the 9 words of the training part, but got 'dog'"
    ):
        _data(root).load("val")


def test_files_that_are_missing_or_damaged_are_reported(root: str) -> None:
    (Path(root) / "tiny" / "tiny.test.txt.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"tiny\.test\.txt\.gz is damaged or of another format"):
        _data(root).load("test")
    (Path(root) / "tiny" / "tiny.train.txt.gz").unlink()
    with pytest.raises(DataError, match=r"tiny\.train\.txt\.gz is missing"):
        _data(root).load("val")


@pytest.mark.parametrize("names", [["train", "valid"], ["train", "test", "extra"], ["train_valid", "test", "extra"]])
def test_building_wants_the_three_files(names: list[str]) -> None:
    with pytest.raises(
        ValueError, match=r"Ptb wants three data.files, with 'train', 'valid' and 'test' in their names"
    ):
        Ptb("/nowhere", "tiny", dict.fromkeys(names), 9, 2, None, None, True)


def test_ptb_itself_has_its_published_sizes_and_comes_back() -> None:
    root = os.environ.get("LATHE_DATA")
    if not root or not (Path(root) / "ptb").is_dir():
        pytest.skip("PTB is not here; set LATHE_DATA to the folder that holds 'ptb'")
    files = {f"ptb.{name}.txt.gz": None for name in ("train", "valid", "test")}
    data = Ptb(root, "ptb", files, 10_000, 20, 929_589, 46_479, True)
    splits = {split: data.load(split) for split in ("train", "val", "test")}
    assert [len(split.tokens) for split in splits.values()] == [929_589, 73_760, 82_430]
    assert len(data.tokenizer.kinds) == 10_000
    assert data.tokenizer.kinds[:4] == ["the", "<unk>", "<eos>", "N"]
    text = gzip.decompress((Path(root) / "ptb" / "ptb.valid.txt.gz").read_bytes()).decode()
    assert data.tokenizer.decode(splits["val"].tokens) == _plain(text)
