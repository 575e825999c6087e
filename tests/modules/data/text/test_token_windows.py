import re
from typing import cast

import pytest
import torch
from torch import Tensor

from modules.data.base import DataError
from modules.data.text.token_windows import TokenWindows, WindowSizes
from tests.support.batches import fetch


def _see(windows: TokenWindows, indices: list[int], seed: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    inputs, targets = fetch(windows, torch.tensor(indices), seed)
    return cast(Tensor, inputs).tolist(), cast(Tensor, targets).tolist()


def test_windows_are_adjacent_and_a_target_is_the_next_token() -> None:
    windows = TokenWindows(torch.arange(12), context_tokens=5)
    assert (len(windows), windows.in_memory) == (2, True)
    assert _see(windows, [1, 0, 1]) == (
        [[5, 6, 7, 8, 9], [0, 1, 2, 3, 4], [5, 6, 7, 8, 9]],
        [[6, 7, 8, 9, 10], [1, 2, 3, 4, 5], [6, 7, 8, 9, 10]],
    )


@pytest.mark.parametrize(("num_tokens", "windows"), [(4, 1), (6, 1), (7, 2), (9, 2), (10, 3)])
def test_the_last_token_is_only_a_target(num_tokens: int, windows: int) -> None:
    assert len(TokenWindows(torch.arange(num_tokens), context_tokens=3)) == windows


def test_a_batch_is_contiguous_in_memory() -> None:
    for tensor in fetch(TokenWindows(torch.arange(12), 5, shift=True), torch.arange(2)):
        assert cast(Tensor, tensor).is_contiguous()
        assert cast(Tensor, tensor).dtype == torch.int64


def test_shifted_windows_depend_only_on_the_seeds() -> None:
    windows = TokenWindows(torch.arange(100), context_tokens=7, shift=True)
    assert _see(windows, [3, 0, 9], seed=1) == _see(windows, [3, 0, 9], seed=1)
    assert _see(windows, [3, 0, 9], seed=1) != _see(windows, [3, 0, 9], seed=2)
    inputs, targets = _see(windows, [3] * 40)
    assert len({tuple(row) for row in inputs}) > 1
    assert [row[1:] for row in inputs] == [row[:-1] for row in targets]


def test_a_window_can_start_at_every_position_of_a_stream() -> None:
    windows = TokenWindows(torch.arange(13), context_tokens=5, shift=True)  # room for 8 starts
    drawn = {index: {row[0] for row in _see(windows, [index] * 200)[0]} for index in range(2)}
    assert drawn == {0: {0, 1, 2, 3, 4}, 1: {5, 6, 7}}


def test_a_stream_of_one_window_less_its_target_is_refused() -> None:
    with pytest.raises(ValueError, match=r"TokenWindows wants more tokens than context_tokens=5, .*, but got 5; lower"):
        TokenWindows(torch.arange(5), context_tokens=5)


@pytest.mark.parametrize(
    ("context_tokens", "num_train_tokens", "num_train", "message"),
    [
        (0, 13, 2, "data wants context_tokens of at least 1, but got 0"),
        (6, None, 2, "data.num_train=2 needs data.num_train_tokens, .* set data.num_train=null"),
        (6, 6, None, "data.num_train_tokens=6 is less than a window of data.context_tokens=6 and the token after it"),
        (4, 13, 2, r"data.num_train=2 is not the .* in data.num_train_tokens=13; set data.num_train=3, or null"),
        (12, 13, 2, r"windows of data.context_tokens=12 in .*; set data.num_train=1, or null to count by max_steps"),
    ],
)
def test_sizes_that_contradict_each_other_are_reported_without_a_file(
    context_tokens: int, num_train_tokens: int | None, num_train: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        WindowSizes(context_tokens, num_train_tokens, num_train, shift=True)


def test_training_takes_the_first_tokens_and_only_it_is_shifted() -> None:
    sizes = WindowSizes(context_tokens=3, num_train_tokens=8, num_train=2, shift=True)
    cut = {split: sizes.cut("tiny", split, torch.arange(11)) for split in ("train", "val", "test")}
    assert {split: (len(windows.tokens), windows.shift) for split, windows in cut.items()} == {
        "train": (8, True),
        "val": (11, False),
        "test": (11, False),
    }
    assert len(WindowSizes(3, None, None, shift=False).cut("tiny", "train", torch.arange(11))) == 3


def test_more_tokens_than_there_are_are_refused_with_the_numbers_that_fit() -> None:
    sizes = WindowSizes(context_tokens=3, num_train_tokens=8, num_train=2, shift=True)
    way_out = re.escape(
        "has 7 tokens, but data.num_train_tokens=8; set data.num_train_tokens=7 data.num_train=2, or both"
    )
    with pytest.raises(DataError, match=f"data.folder='tiny': the split 'train' {way_out}"):
        sizes.cut("tiny", "train", torch.arange(7))
    with pytest.raises(DataError, match=r"has 11 tokens, but data.num_train_tokens=8; .*=11 data.num_train=3"):
        sizes.cut("tiny", "train", torch.arange(11), is_exact=True)


def test_a_window_longer_than_a_split_is_refused_with_the_longest_that_fits() -> None:
    sizes = WindowSizes(context_tokens=6, num_train_tokens=None, num_train=None, shift=True)
    with pytest.raises(
        DataError, match=r"the split 'val' has 5 tokens, .* data.context_tokens=6 .* lower it to 4 or less"
    ):
        sizes.cut("tiny", "val", torch.arange(5))
    with pytest.raises(ValueError, match=r"wants the split 'train', 'val' or 'test', but got 'valid'"):
        sizes.cut("tiny", "valid", torch.arange(50))
