"""Nearest neighbours of word vectors by cosine, and tables of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def neighbours(
    phrase: str, numbers: Mapping[str, int], words: Sequence[str], vectors: Tensor, count: int
) -> list[tuple[str, float]] | None:
    """Return the nearest words and their cosines, the nearest first.

    Args:
        phrase: a word, or several for their mean; they are not in the result.
        numbers: ids of the words.
        words: the word of every id.
        vectors: float [words, features], of length 1.
        count: number of neighbours.

    Returns:
        None if a word is unknown.
    """
    terms = phrase.lower().split()
    if not terms or any(word not in numbers for word in terms):
        return None
    rows = torch.tensor([numbers[word] for word in terms], device=vectors.device)
    return nearest(vectors[rows].mean(0), rows, words, vectors, count)


def nearest(
    direction: Tensor, left_out: Tensor, words: Sequence[str], vectors: Tensor, count: int
) -> list[tuple[str, float]]:
    """Return the words with the highest cosine to a direction, and the cosines.

    Args:
        direction: float [features], of any length.
        left_out: int64 [some], ids of words to leave out.
        words: the word of every id.
        vectors: float [words, features], of length 1.
        count: number of words.
    """
    cosines = vectors @ F.normalize(direction, dim=0)
    cosines[left_out] = float("-inf")
    best = cosines.topk(min(count, len(words) - len(set(left_out.tolist()))))
    return [(words[number], cosine) for cosine, number in zip(best.values.tolist(), best.indices.tolist(), strict=True)]


def table(columns: Mapping[str, list[tuple[str, float]] | None]) -> str:
    """Format a table with a column for every phrase."""
    cells = [
        [phrase, *([f"{cosine:.2f} {word}" for word, cosine in near] if near is not None else ["(unknown)"])]
        for phrase, near in columns.items()
    ]
    height = max((len(column) for column in cells), default=0)
    widths = [max(map(len, column)) for column in cells]
    padded = [column + [""] * (height - len(column)) for column in cells]
    rows = zip(*padded, strict=True)
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )
