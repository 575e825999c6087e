"""Pairs of words that people have said to be more or less alike."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class WordPairs:
    """Those of a file whose words are both known."""

    pairs: Tensor
    """int64 [pairs, 2], numbers of words."""
    scores: Tensor
    """float64 [pairs], people's."""
    num_asked: int
    """In the file, those with unknown words too."""

    def spearman(self, vectors: Tensor) -> float:
        """Rank correlation between people's scores and the cosines of vectors, of length 1, float [words, features]."""
        from scipy.stats import spearmanr

        pairs = self.pairs.to(vectors.device)
        cosines = (vectors[pairs[:, 0]] * vectors[pairs[:, 1]]).sum(1)
        if bool((cosines == cosines[0]).all()):  # of vectors that have learnt nothing
            return 0.0
        return float(spearmanr(cosines.double().cpu().numpy(), self.scores.numpy()).statistic)


def read_pairs(text: str, numbers: Mapping[str, int]) -> WordPairs:
    """Parse lines of two words and columns of which the first number is their score; a first line of headings is left out.

    Args:
        text: fields between tabs or commas, as WordSim-353 and SimLex-999; the words' case does not matter.
        numbers: of the known words.

    Raises:
        ValueError: a line has no number.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    pairs, scores, num_asked = list[list[int]](), list[float](), 0
    for number, fields in enumerate(csv.reader(lines, delimiter=delimiter), start=1):
        score = next((float(field) for field in fields[2:] if _is_number(field)), None)
        if score is None:
            if number == 1:
                continue
            raise ValueError(f"line {number} has no score after its two words: {lines[number - 1][:80]!r}")
        num_asked += 1
        words = [field.strip().lower() for field in fields[:2]]
        if all(word in numbers for word in words):
            pairs.append([numbers[word] for word in words])
            scores.append(score)
    return WordPairs(
        torch.tensor(pairs, dtype=torch.int64).view(-1, 2), torch.tensor(scores, dtype=torch.float64), num_asked
    )


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
