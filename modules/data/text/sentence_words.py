"""Sentences as numbers of words or of byte pairs, the first four of which mean something else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch

from modules.data.base import END, PADDING, START, UNKNOWN
from modules.data.text.byte_pairs import BytePairs
from modules.data.text.characters import kinds_of

SPECIAL = {PADDING: "<pad>", START: "<s>", END: "</s>", UNKNOWN: "<unk>"}

_PARTS = re.compile(r"\w+|[^\w\s]")


def normalised(text: str) -> str:
    """A text in small letters, with a space between words and around every mark."""
    return " ".join(_PARTS.findall(text.lower()))


class Sentences(Protocol):
    """Between sentences and numbers; the numbers of no sentence are `PADDING`, `START` or `END`."""

    def encode(self, text: str) -> list[int]:
        """Numbers, `UNKNOWN` for what has none."""
        ...

    def decode(self, numbers: Sequence[int]) -> str:
        """The sentence again, ``<unk>`` for what had no number."""
        ...

    def heard(self, text: str) -> str:
        """What somebody typed, as sentences are written here."""
        ...


class SentenceWords:
    """Numbers the words between spaces that sentences have often enough, the most frequent first."""

    def __init__(self, sentences: Iterable[str], vocab_size: int, min_count: int) -> None:
        """
        Args:
            sentences: what is counted.
            vocab_size: most numbers, the four special ones among them; words of one count by the alphabet.
            min_count: how often a word must stand in the sentences.
        """
        counts = Counter(word for sentence in sentences for word in sentence.split())
        known = sorted(counts, key=lambda word: (-counts[word], word))[: max(0, vocab_size - len(SPECIAL))]
        self.words = [*SPECIAL.values(), *(word for word in known if counts[word] >= min_count)]
        self.numbers = {word: number for number, word in enumerate(self.words) if number not in SPECIAL}

    def encode(self, text: str) -> list[int]:
        return [self.numbers.get(word, UNKNOWN) for word in text.split()]

    def decode(self, numbers: Sequence[int]) -> str:
        return " ".join(self.words[number] if number < len(self.words) else SPECIAL[UNKNOWN] for number in numbers)

    def heard(self, text: str) -> str:
        """Words that are known stay; others are put in small letters and taken apart at their marks."""
        return " ".join(word if word in self.numbers else normalised(word) for word in text.split())


class SentencePieces:
    """Numbers byte pairs, so that nearly every word has numbers, and rare ones several."""

    def __init__(self, sentences: Iterable[str], vocab_size: int) -> None:
        """
        Args:
            sentences: what the pairs are learnt from.
            vocab_size: numbers, the four special ones among them.

        Raises:
            DataError: the characters alone are more, or the text has not enough pairs.
        """
        text = "\n".join(sentences)
        kinds = kinds_of(text.replace("\n", ""))
        # The library's number 0 is its own unknown one: moved on by 3, all else comes after `UNKNOWN`.
        self._pieces = BytePairs(text, kinds, vocab_size - UNKNOWN)
        self._known = re.compile(f"[{re.escape(kinds)}]+|.", re.DOTALL)
        self._kinds = set(kinds)

    def encode(self, text: str) -> list[int]:
        numbers: list[int] = []
        for part in self._known.findall(text):
            if part[0] in self._kinds:
                numbers += [piece + UNKNOWN for piece in self._pieces.encode(part).tolist()]
            else:
                numbers.append(UNKNOWN)
        return numbers

    def decode(self, numbers: Sequence[int]) -> str:
        text, run = "", list[int]()
        for number in [*numbers, UNKNOWN]:
            if number > UNKNOWN:
                run.append(number - UNKNOWN)
                continue
            text += (
                self._pieces.decode(torch.tensor(run, dtype=torch.int64)) + SPECIAL[UNKNOWN]
                if run
                else SPECIAL[UNKNOWN]
            )
            run = []
        return text.removesuffix(SPECIAL[UNKNOWN])

    def heard(self, text: str) -> str:
        return " ".join(text.split())
