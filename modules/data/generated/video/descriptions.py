"""Sentences about what happens in a clip."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from modules.data.generated.video.clips import DIRECTIONS

_PHRASINGS: Final = (
    ("", "the {name} {verb}", " and "),
    ("", "the {name} {verb}", " while "),
    ("you see the ", "{name} that {verb}", " and the "),
    ("in this clip ", "the {name} {verb}", " , "),
    ("look how ", "the {name} {verb}", " and "),
)
"""The beginning of a sentence, what it says of an image, and what stands between two images."""
_TURNS: Final = " and then turns back"
NUM_PHRASINGS: Final = len(_PHRASINGS)


class Fact(NamedTuple):
    """What an image of a clip does."""

    name: str
    direction: str
    """One of `DIRECTIONS`: the first one, if it bounces."""
    turns: bool
    """Whether it bounces."""


def describe(facts: Sequence[Fact], phrasing: int) -> str:
    """Return a sentence, in the order of the facts; words and commas have spaces around them.

    Args:
        facts: at least one.
        phrasing: from 0 to ``NUM_PHRASINGS - 1``.
    """
    start, item, between = _PHRASINGS[phrasing]
    parts = [item.format(name=fact.name, verb=_verb(fact)) for fact in facts]
    return start + between.join(parts)


def find_facts(text: str, names: Sequence[str]) -> list[Fact]:
    """Return the facts that a sentence states, sorted; what follows a name belongs to it.

    Args:
        text: in any phrasing.
        names: of the classes.
    """
    facts, words = list[Fact](), text.split()
    places = [place for place, word in enumerate(words) if word in names]
    for place, end in pairwise([*places, len(words)]):
        said = words[place + 1 : end]
        directions = [word for word in said if word in DIRECTIONS]
        facts.append(Fact(words[place], " ".join(directions), "turns" in said))
    return sorted(facts)


def grammar_words() -> list[str]:
    """All words of the sentences but the names."""
    whole = " ".join("".join(phrasing).format(name="", verb="") for phrasing in _PHRASINGS)
    verbs = " ".join(_verb(Fact("", direction, True)) for direction in DIRECTIONS)
    return sorted(set(f"{whole} {verbs}".split()))


def _verb(fact: Fact) -> str:
    return (f"goes {fact.direction}" if fact.direction != "still" else "stands still") + _TURNS * fact.turns
