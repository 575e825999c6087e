"""Word pairs with similarity scores by people."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class WordPairs:
    """The pairs of a file whose words are both known."""

    pairs: Tensor
    """int64 [pairs, 2], word ids."""
    scores: Tensor
    """float64 [pairs], by people."""
    num_pairs: int
    """All pairs of the file, including those with unknown words."""

    def spearman(self, vectors: Tensor) -> float:
        """Compute the rank correlation of the scores and the cosines of vectors of length 1, float [words, features]."""
        from scipy.stats import spearmanr

        pairs = self.pairs.to(vectors.device)
        cosines = (vectors[pairs[:, 0]] * vectors[pairs[:, 1]]).sum(1)
        if bool((cosines == cosines[0]).all()):  # untrained vectors
            return 0.0
        return float(spearmanr(cosines.double().cpu().numpy(), self.scores.numpy()).statistic)


def read_pairs(text: str, numbers: Mapping[str, int]) -> WordPairs:
    """Parse lines of two words and further columns, of which the first number is the score; a header line is left out.

    Args:
        text: fields separated by tabs or commas, as in WordSim-353 and SimLex-999; case does not matter.
        numbers: ids of the known words.

    Raises:
        ValueError: a line has no number.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    pairs, scores, num_pairs = list[list[int]](), list[float](), 0
    for number, fields in enumerate(csv.reader(lines, delimiter=delimiter), start=1):
        score = next((float(field) for field in fields[2:] if _is_number(field)), None)
        if score is None:
            if number == 1:
                continue
            raise ValueError(f"line {number} has no score after its two words: {lines[number - 1][:80]!r}")
        num_pairs += 1
        words = [field.strip().lower() for field in fields[:2]]
        if all(word in numbers for word in words):
            pairs.append([numbers[word] for word in words])
            scores.append(score)
    return WordPairs(
        torch.tensor(pairs, dtype=torch.int64).view(-1, 2), torch.tensor(scores, dtype=torch.float64), num_pairs
    )


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
