"""The edit distance of two sequences, for error rates of words and characters."""

from __future__ import annotations

from collections.abc import Sequence


def edit_distance(text: Sequence[str], reference: Sequence[str]) -> int:
    """Count the fewest substitutions, deletions and insertions that turn one list of words, or text of characters, into another.

    The time grows with the product of both lengths; beginnings and ends that are equal cost nothing.
    Source: Levenshtein 1966; Wagner and Fischer 1974, doi:10.1145/321796.321811.
    """
    text, reference = _cut_equal_ends(text, reference)
    row = list(range(len(text) + 1))
    for number, right in enumerate(reference, 1):
        diagonal, row[0] = row[0], number
        for place, own in enumerate(text, 1):
            best = diagonal if own == right else min(diagonal, row[place], row[place - 1]) + 1
            diagonal, row[place] = row[place], best
    return row[-1]


def _cut_equal_ends(one: Sequence[str], other: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    shortest = min(len(one), len(other))
    start = next((place for place in range(shortest) if one[place] != other[place]), shortest)
    rest = shortest - start
    end = next((place for place in range(rest) if one[-1 - place] != other[-1 - place]), rest)
    return one[start : len(one) - end], other[start : len(other) - end]
