import gzip
import os
from pathlib import Path
from typing import Literal, cast

import pytest
import torch
from torch import Tensor

from modules.data.base import DataError
from modules.data.text_file import TextFile
from tests.support.batches import fetch

Tokens = Literal["characters", "byte_pairs"]
TEXT = "to be or not to be\nthat is the question\n" * 5  # 200 characters of 14 kinds
KINDS = sorted(set(TEXT))


@pytest.fixture
def root(tmp_path: Path) -> str:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "tiny.txt").write_text(TEXT)
    (tmp_path / "tiny" / "tiny.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    return str(tmp_path)


def _data(
    root: str,
    tokens: Tokens = "characters",
    vocab_size: int = 14,
    context_tokens: int = 4,
    num_train_tokens: int | None = None,
    num_train: int | None = None,
    name: str = "tiny.txt",
) -> TextFile:
    return TextFile(root, "tiny", {name: None}, tokens, vocab_size, context_tokens, num_train_tokens, num_train, True)


@pytest.mark.parametrize("name", ["tiny.txt", "tiny.txt.gz"])
@pytest.mark.parametrize(("tokens", "vocab_size"), [("characters", 14), ("byte_pairs", 25)])
def test_the_splits_give_the_text_back_in_order(root: str, name: str, tokens: Tokens, vocab_size: int) -> None:
    data = _data(root, tokens, vocab_size, context_tokens=2, name=name)
    parts = [data.tokenizer.decode(data.load(split).tokens) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [180, 10, 10]
    assert "".join(parts) == TEXT


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_batch_looks_like_the_example(root: str, split: str) -> None:
    data = _data(root)
    batch = fetch(data.load(split), torch.arange(2))
    for real, blank in zip(batch, data.example(2), strict=True):
        real, blank = cast(Tensor, real), cast(Tensor, blank)
        assert (real.shape, real.dtype) == (blank.shape, blank.dtype) == ((2, 4), torch.int64)
        assert not blank.any()


def test_a_smaller_set_is_made_of_the_first_characters(root: str) -> None:
    data = _data(root, num_train_tokens=50, num_train=12)
    assert data.tokenizer.decode(data.load("train").tokens) == TEXT[:50]
    assert len(data.load("train")) == 12
    assert len(data.load("val").tokens) == 10


def test_all_byte_pairs_or_none_are_counted(root: str) -> None:
    actual = len(_data(root, "byte_pairs", 25).load("train").tokens)
    data = _data(root, "byte_pairs", 25, num_train_tokens=actual, num_train=(actual - 1) // 4)
    assert len(data.load("train")) == (actual - 1) // 4
    fewer = _data(root, "byte_pairs", 20, num_train_tokens=actual)
    with pytest.raises(
        DataError, match=rf"but data.num_train_tokens={actual}; set data.num_train_tokens=\d+ data.num_train="
    ):
        fewer.load("train")


def test_byte_pairs_are_learnt_from_the_training_part_alone(root: str) -> None:
    path = Path(root) / "tiny" / "tiny.txt"
    before = _data(root, "byte_pairs", 25).load("train").tokens
    path.write_text(TEXT[:180] + "qu" * 10)
    assert torch.equal(_data(root, "byte_pairs", 25).load("train").tokens, before)


def test_numbers_that_do_not_fit_the_text_are_reported(root: str) -> None:
    with pytest.raises(DataError, match=r"data.vocab_size=13 is too small for the 14 different characters"):
        _data(root, vocab_size=13).load("val")
    with pytest.raises(
        DataError, match=r"data.folder='tiny': the split 'train' has 180 tokens, but data.num_train_tokens=200"
    ):
        _data(root, num_train_tokens=200).load("train")
    with pytest.raises(
        DataError, match=r"the split 'test' has 10 tokens, .* data.context_tokens=10 .* lower it to 9 or less"
    ):
        _data(root, context_tokens=10).load("test")
    with pytest.raises(ValueError, match=r"set data.num_train=44, or null"):
        _data("/nowhere", num_train_tokens=180, num_train=45)


def test_a_file_that_is_no_text_is_reported_with_its_name(root: str) -> None:
    path = Path(root) / "tiny" / "tiny.txt"
    path.write_bytes(b"\xff" * 50)
    with pytest.raises(DataError, match=r"tiny/tiny\.txt is damaged or of another format \('utf-8' codec"):
        _data(root).load("train")
    path.write_text("to be or not")
    with pytest.raises(DataError, match=r"it has 12 characters, but three splits need at least 20"):
        _data(root).load("train")
    path.unlink()
    with pytest.raises(DataError, match=r"tiny\.txt is missing; .* set LATHE_DATA"):
        _data(root).load("train")
    path.with_name("tiny.txt.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"or of another format"):
        _data(root, name="tiny.txt.gz").load("train")


def test_a_character_that_the_library_keeps_for_itself_is_refused(root: str) -> None:
    (Path(root) / "tiny" / "tiny.txt").write_text(TEXT.replace("q", "\u2581"))
    with pytest.raises(DataError, match=r"tiny\.txt has characters that SentencePiece reserves, such as U\+2581"):
        _data(root, "byte_pairs", 25).load("train")
    assert len(_data(root).load("train").tokens) == 180


def test_building_wants_one_file_and_reads_none() -> None:
    assert _data("/nowhere").vocab_size == 14
    with pytest.raises(ValueError, match=r"TextFile wants one file in data.files, but got \['a', 'b'\]"):
        TextFile("/nowhere", "tiny", {"b": None, "a": None}, "characters", 14, 4, None, None, True)


@pytest.mark.parametrize(
    ("tokens", "vocab_size", "num_train_tokens", "num_train"),
    [("characters", 65, 1_003_854, 15_685), ("byte_pairs", 512, 463_050, 7_235), ("byte_pairs", 1024, 396_149, 6_189)],
)
def test_tiny_shakespeare_itself_has_its_known_sizes_and_comes_back(
    tokens: Tokens, vocab_size: int, num_train_tokens: int, num_train: int
) -> None:
    root = os.environ.get("LATHE_DATA")
    if not root or not (Path(root) / "shakespeare").is_dir():
        pytest.skip("tiny Shakespeare is not here; set LATHE_DATA to the folder that holds 'shakespeare'")
    name = "tinyshakespeare.txt.gz"
    data = TextFile(root, "shakespeare", {name: None}, tokens, vocab_size, 64, num_train_tokens, num_train, True)
    splits = {split: data.load(split) for split in ("train", "val", "test")}
    assert len(splits["train"]) == num_train
    text = gzip.decompress((Path(root) / "shakespeare" / name).read_bytes()).decode()
    assert "".join(data.tokenizer.decode(split.tokens) for split in splits.values()) == text
    assert text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.")
