"""Sentences as ids of words or byte pairs; the first four ids are special tokens."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch

from modules.data.base import END, PADDING, START, UNKNOWN
from modules.data.text.byte_pairs import BytePairs
from modules.data.text.characters import find_characters

SPECIAL = {PADDING: "<pad>", START: "<s>", END: "</s>", UNKNOWN: "<unk>"}

_PARTS = re.compile(r"\w+|[^\w\s]")


def normalise(text: str) -> str:
    """Convert a text to lower case, with a space between words and around punctuation."""
    return " ".join(_PARTS.findall(text.lower()))


class Sentences(Protocol):
    """Converts between sentences and token ids; no sentence has the ids `PADDING`, `START` or `END`."""

    def encode(self, text: str) -> list[int]:
        """Return token ids; unknown words become `UNKNOWN`."""
        ...

    def decode(self, numbers: Sequence[int]) -> str:
        """Return the sentence, with ``<unk>`` for unknown words."""
        ...

    def adapt(self, text: str) -> str:
        """Adapt a text of a user to the spelling of the data set."""
        ...


class SentenceWords:
    """Ids of frequent words, by falling frequency."""

    def __init__(self, sentences: Iterable[str], vocab_size: int, min_count: int) -> None:
        """
        Args:
            sentences: with words between spaces.
            vocab_size: maximum number of ids, including the four special tokens; equal counts in alphabetical order.
            min_count: minimum number of occurrences of a word.
        """
        counts = Counter(word for sentence in sentences for word in sentence.split())
        known = sorted(counts, key=lambda word: (-counts[word], word))[: max(0, vocab_size - len(SPECIAL))]
        self.words = [*SPECIAL.values(), *(word for word in known if counts[word] >= min_count)]
        self.numbers = {word: number for number, word in enumerate(self.words) if number not in SPECIAL}

    def encode(self, text: str) -> list[int]:
        return [self.numbers.get(word, UNKNOWN) for word in text.split()]

    def decode(self, numbers: Sequence[int]) -> str:
        return " ".join(self.words[number] if number < len(self.words) else SPECIAL[UNKNOWN] for number in numbers)

    def adapt(self, text: str) -> str:
        """Keep known words; normalise other words."""
        return " ".join(word if word in self.numbers else normalise(word) for word in text.split())


class SentencePieces:
    """Ids of byte pairs; nearly every word has ids, and rare words have several."""

    def __init__(self, sentences: Iterable[str], vocab_size: int) -> None:
        """
        Args:
            sentences: to learn the pairs from.
            vocab_size: number of ids, including the four special tokens.

        Raises:
            DataError: there are more characters than ids, or the text has too few pairs.
        """
        text = "\n".join(sentences)
        kinds = find_characters(text.replace("\n", ""))
        # Id 0 of the library is its unknown token. Shifted by 3 it is `UNKNOWN`, and all others come after it.
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

    def adapt(self, text: str) -> str:
        return " ".join(text.split())
