"""Edits between texts."""

from __future__ import annotations

import pytest

from modules.evaluator.texts.edit_distance import edit_distance


@pytest.mark.parametrize(
    ("text", "reference", "distance"),
    [
        ("a b c", "a b c", 0),
        ("", "a b c", 3),
        ("a b", "", 2),
        ("a x c", "a b c", 1),
        ("a c", "a b c", 1),
        ("a b b c", "a b c", 1),
        ("x a b", "a b y", 2),
        ("b a x", "a b c d", 3),
        ("ab c", "a b c", 2),
    ],
)
def test_the_distance_of_words(text: str, reference: str, distance: int) -> None:
    assert edit_distance(text.split(), reference.split()) == distance


def test_the_distance_of_characters() -> None:
    assert edit_distance("sitting", "kitten") == 3
    assert edit_distance("intention", "execution") == 5
