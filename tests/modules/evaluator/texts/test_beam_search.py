"""Beam search against all texts there are, and against taking the best word every time."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from modules.data.base import END, PADDING, START
from modules.evaluator.texts.beam_search import beam_search
from modules.model.base import State

NUM_WORDS = 6  # the four special ones, of which UNKNOWN may be written, and two more


class Table:
    """Scores the next word by the two before it, out of a table of chance for every source."""

    def __init__(self, seed: int, num_sources: int = 3) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = (num_sources, NUM_WORDS, NUM_WORDS, NUM_WORDS)
        self.log_probs = (2 * torch.randn(shape, generator=generator, dtype=torch.float64)).log_softmax(-1)

    def encode(self, source: Tensor) -> State:
        return source, torch.zeros_like(source)

    def step(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        source, before = state
        return self.log_probs[source, before, words].clone(), (source, words)


def _score(model: Table, source: int, text: list[int], alpha: float) -> float:
    before, last, total = 0, START, 0.0
    for word in text:
        total += float(model.log_probs[source, before, last, word])
        before, last = last, word
    return total / float(((5 + len(text)) / 6) ** alpha)


def _every(max_tokens: int) -> list[list[int]]:
    words = [word for word in range(NUM_WORDS) if word not in (PADDING, START, END)]
    ended = [[*text, END] for length in range(max_tokens) for text in product(words, repeat=length)]
    return ended + [list(text) for text in product(words, repeat=max_tokens)]


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_beam_as_large_as_all_texts_finds_the_best_of_them(seed: int, alpha: float) -> None:
    model, max_tokens = Table(seed), 4
    actual = beam_search(model, torch.arange(3), 500, alpha, max_tokens)
    for source, row in enumerate(actual.tolist()):
        text = [word for word in row if word != PADDING]
        best = max(_every(max_tokens), key=lambda each: _score(model, source, each, alpha))
        assert text == best
        assert row == best + [PADDING] * (max_tokens - len(best))


@pytest.mark.parametrize("seed", range(4))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    model, max_tokens = Table(seed), 5
    actual = beam_search(model, torch.arange(3), 1, 0.6, max_tokens)
    for source, row in enumerate(actual.tolist()):
        before, last, text = 0, START, list[int]()
        while len(text) < max_tokens and last != END:
            scores = model.log_probs[source, before, last].clone()
            scores[[PADDING, START]] = -math.inf
            before, last = last, int(scores.argmax())
            text.append(last)
        assert row == text + [PADDING] * (max_tokens - len(text))


def test_a_wider_beam_finds_nothing_worse_in_the_mean() -> None:
    means = []
    for beam_size in (1, 2, 4):
        scores = []
        for seed in range(20):
            model = Table(seed)
            for source, row in enumerate(beam_search(model, torch.arange(3), beam_size, 0.0, 6).tolist()):
                scores.append(_score(model, source, [word for word in row if word != PADDING], 0.0))
        means.append(sum(scores) / len(scores))
    assert means == sorted(means)
    assert means[0] < means[-1]


def test_a_translation_does_not_depend_on_the_batch() -> None:
    model = Table(7, num_sources=5)
    together = beam_search(model, torch.arange(5), 3, 0.6, 6)
    for source in range(5):
        assert torch.equal(beam_search(model, torch.tensor([source]), 3, 0.6, 6)[0], together[source])
