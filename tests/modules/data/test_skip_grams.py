from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.data.base import Batch, DataError
from modules.data.skip_grams import SkipGrams, SkipGramSplit
from tests.support.batches import fetch

LETTERS = "abcdefghij"
TEXT = " ".join(LETTERS[(number * number) % 10] * 2 for number in range(3000))


@pytest.fixture
def root(tmp_path: Path) -> str:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "tiny.txt").write_text(TEXT)
    (tmp_path / "tiny" / "more.txt.gz").write_bytes(gzip.compress(b"zz yy zz " * 200))
    return str(tmp_path)


def _data(root: str, **others: Any) -> SkipGrams:
    options: dict[str, Any] = {
        "files": {"tiny.txt": None}, "vocab_size": 20, "min_count": 2, "context_tokens": 7, "window": 3,
        "subsample_threshold": None, "negative_power": 0.75, "num_negatives": 5, "num_train": None,
    }  # fmt: skip
    return SkipGrams(root, "tiny", **{**options, **others})


def _batch(split: SkipGramSplit, count: int, seed: int = 0, first: int = 0) -> Batch:
    return fetch(split, torch.arange(first, first + count), seed)


def _pairs(batch: Batch) -> list[list[tuple[int, int, int]]]:
    """Of every stretch, places of words and of words around them, and the word there."""
    (words, _), (pairs, *_) = batch
    window = pairs.shape[2] // 2
    return [
        [(at, at + by - window, int(words[row, at + by - window])) for at, by in pairs[row].nonzero().tolist()]
        for row in range(len(words))
    ]


def test_pairs_are_words_no_farther_than_the_window_and_all_distances_come(root: str) -> None:
    actual = [pair for row in _pairs(_batch(_data(root).load("train"), 200)) for pair in row]
    distances = [abs(one - other) for one, other, _ in actual]
    assert set(distances) == {1, 2, 3}
    assert all(0 <= other < 7 for _, other, _ in actual)
    counts = [distances.count(distance) for distance in (1, 2, 3)]
    assert counts[0] > counts[1] > counts[2], "a window is drawn for every word, so that near ones come oftener"


def test_a_batch_depends_only_on_its_seeds(root: str) -> None:
    split, again = _data(root).load("train"), _data(root).load("train")
    one, two, other = _batch(split, 4), _batch(again, 4), _batch(split, 4, seed=1)
    assert all(torch.equal(left, right) for left, right in zip(_flat(one), _flat(two), strict=True))
    assert not torch.equal(one[0][0], other[0][0]), "training cuts elsewhere"


def test_pairs_of_an_evaluated_segment_do_not_depend_on_the_batch(root: str) -> None:
    split = _data(root, context_tokens=4, subsample_threshold=0.05).load("val")
    (words, noise), (pairs, *_) = _batch(split, 5, seed=3)
    (late_words, late_noise), (late_pairs, *_) = _batch(split, 2, seed=4, first=3)
    assert torch.equal(noise[3:], late_noise)
    time = late_words.shape[1]
    assert torch.equal(words[3:, :time], late_words)
    assert torch.equal(pairs[3:, :time], late_pairs)
    assert not pairs[3:, time:].any()


def test_subsampling_drops_frequent_words_and_joins_the_rest(root: str) -> None:
    data = _data(root, subsample_threshold=0.02, context_tokens=50)
    (words, _), (pairs, *_) = _batch(data.load("train"), 30)
    whole = sum(len(row) for row in _pairs(_batch(_data(root, context_tokens=50).load("train"), 30)))
    assert 0 < words.shape[1] < 50
    assert 0 < int(pairs.sum()) < 0.8 * whole
    real = pairs.any(2)
    assert (real[:, 1:] <= real[:, :-1]).all(), "what is left out leaves no hole"


def test_negatives_follow_the_frequencies_to_the_power(root: str) -> None:
    data = _data(root, num_negatives=500)
    (words, noise), (_, log_noise_words, log_noise) = _batch(data.load("train"), 100)
    expected = data.vocabulary.counts.double() ** 0.75
    expected /= expected.sum()
    actual = torch.bincount(noise.flatten(), minlength=len(expected)) / noise.numel()
    torch.testing.assert_close(actual.double(), expected, atol=0.01, rtol=0)
    torch.testing.assert_close(log_noise, expected.log().float()[noise])
    torch.testing.assert_close(log_noise_words, expected.log().float()[words])


def test_several_files_make_one_text_and_rare_words_are_not_in_it(root: str) -> None:
    data = _data(root, files={"tiny.txt": None, "more.txt.gz": None}, min_count=390)
    assert data.words == ["bb", "ee", "gg", "jj", "zz"]
    tokens = data.load("train").tokens.tolist()
    assert [data.words[token] for token in (*tokens[:4], tokens[-1])] == ["bb", "ee", "jj", "gg", "zz"]


def test_an_example_is_as_large_as_a_batch_can_be(root: str) -> None:
    data = _data(root)
    for promised, given in zip(_flat(data.example(4)), _flat(_batch(data.load("train"), 4)), strict=True):
        assert promised.dtype == given.dtype
        assert promised.shape == given.shape, "nothing is left out of this text"


def test_a_smaller_set_has_the_first_segments(root: str) -> None:
    whole, fewer = _data(root).load("train"), _data(root, num_train=12).load("train")
    assert len(fewer) == 12
    assert torch.equal(fewer.tokens, whole.tokens[: 12 * 7])


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"min_count": 10_000}, "data.min_count=10000: no word of data.folder='tiny' is that frequent; lower it"),
        ({"num_train": 10_000}, "set data.num_train=null, lower data.context_tokens or use more text"),
        ({"context_tokens": 3000}, "the split 'train' has"),
    ],
)
def test_too_little_text_is_reported(root: str, others: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _data(root, **others).load("train")


def test_wrong_arguments_are_reported() -> None:
    for others in ({"window": 0}, {"subsample_threshold": 0.0}, {"context_tokens": 1}):
        with pytest.raises(ValueError, match=next(iter(others))):
            _data("nowhere", **others)


def _flat(batch: Batch) -> list[Tensor]:
    return [tensor for part in batch for tensor in part]
