"""Searches for the text of scored frames."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from modules.data.base import END, PADDING, START, UNKNOWN
from modules.evaluator.texts.ctc_search import ctc_search

A, B = UNKNOWN, 4


def find_best_text(log_probs: Tensor) -> list[int]:
    """Of all texts, with the sums of all their alignments."""
    sums: dict[tuple[int, ...], float] = {}
    for path in product((PADDING, A, B), repeat=len(log_probs)):
        is_new = [place == 0 or path[place - 1] != token for place, token in enumerate(path)]
        text = tuple([token for token, new in zip(path, is_new, strict=True) if token and new])
        sums[text] = sums.get(text, 0.0) + float(log_probs[range(len(path)), list(path)].sum().exp())
    return list(max(sums, key=lambda text: sums[tuple(text)]))


def pad(texts: list[list[int]]) -> Tensor:
    longest = max(map(len, texts)) + 1
    return torch.tensor([[*text, END, *[PADDING] * (longest - 1 - len(text))] for text in texts])


def test_a_wide_beam_finds_the_best_of_all_texts() -> None:
    torch.manual_seed(0)
    log_probs, lengths = torch.randn(12, 5, 5).mul(2).log_softmax(-1), torch.tensor([5, 4, 3] * 4)
    log_probs[:, :, [START, END]] = 5.0  # a model never learns these
    best = [find_best_text(row[:length]) for row, length in zip(log_probs, lengths.tolist(), strict=True)]
    assert ctc_search(log_probs, lengths, 100).tolist() == pad(best).tolist()


@pytest.mark.parametrize(
    ("path", "text"), [([A, A, PADDING, A, B, B], [A, A, B]), ([PADDING] * 3, []), ([B, A, B], [B, A, B])]
)
def test_a_beam_of_1_takes_the_best_token_of_each_frame(path: list[int], text: list[int]) -> None:
    log_probs = torch.full((1, len(path), 5), -9.0)
    log_probs[0, range(len(path)), path] = -0.1
    assert ctc_search(log_probs, torch.tensor([len(path)]), 1).tolist() == pad([text]).tolist()


def test_the_sum_of_alignments_can_beat_the_best_one() -> None:
    log_probs = torch.full((1, 2, 5), 1e-9)
    log_probs[0, :, PADDING], log_probs[0, :, A] = 0.6, 0.4  # "": 0.36; "a": 0.16 + 2 x 0.24
    assert ctc_search(log_probs.log(), torch.tensor([2]), 1).tolist() == pad([[]]).tolist()
    assert ctc_search(log_probs.log(), torch.tensor([2]), 2).tolist() == pad([[A]]).tolist()


def test_no_frames_make_an_empty_text() -> None:
    for beam_size in (1, 3):
        assert ctc_search(torch.zeros(1, 2, 5), torch.tensor([0]), beam_size).tolist() == [[END]]
