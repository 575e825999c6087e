"""The words whose vectors point nearly where a given word's does, as a table to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def neighbours(
    phrase: str, numbers: Mapping[str, int], words: Sequence[str], vectors: Tensor, count: int
) -> list[tuple[str, float]] | None:
    """The nearest words and their cosines, the nearest first.

    Args:
        phrase: a word, or several, of which the mean is asked; none of them is an answer.
        numbers: of the words.
        words: the word of every number.
        vectors: float [words, features], of length 1.
        count: how many.

    Returns:
        None where a word is unknown.
    """
    asked = phrase.lower().split()
    if not asked or any(word not in numbers for word in asked):
        return None
    rows = torch.tensor([numbers[word] for word in asked], device=vectors.device)
    return nearest(vectors[rows].mean(0), rows, words, vectors, count)


def nearest(
    direction: Tensor, left_out: Tensor, words: Sequence[str], vectors: Tensor, count: int
) -> list[tuple[str, float]]:
    """The words whose vectors point most nearly in a direction, and their cosines, the nearest first.

    Args:
        direction: float [features], of any length.
        left_out: int64 [some], numbers of words that are no answer.
        words: the word of every number.
        vectors: float [words, features], of length 1.
        count: how many.
    """
    cosines = vectors @ F.normalize(direction, dim=0)
    cosines[left_out] = float("-inf")
    best = cosines.topk(min(count, len(words) - len(set(left_out.tolist()))))
    return [(words[number], cosine) for cosine, number in zip(best.values.tolist(), best.indices.tolist(), strict=True)]


def table(columns: Mapping[str, list[tuple[str, float]] | None]) -> str:
    """Side by side, a column for every phrase."""
    cells = [
        [phrase, *([f"{cosine:.2f} {word}" for word, cosine in found] if found is not None else ["(unknown)"])]
        for phrase, found in columns.items()
    ]
    height = max((len(column) for column in cells), default=0)
    widths = [max(map(len, column)) for column in cells]
    padded = [column + [""] * (height - len(column)) for column in cells]
    rows = zip(*padded, strict=True)
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )
