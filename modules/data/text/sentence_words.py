"""Sentences as ids of words or byte pairs; the first four ids are special tokens."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

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

    def save(self) -> Any:
        """Return all words or pairs as plain JSON values, for ``restore`` of the class."""
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

    def save(self) -> list[str]:
        """Return the words without the special tokens, for `restore`."""
        return self.words[len(SPECIAL) :]

    @classmethod
    def restore(cls, saved: Sequence[str]) -> SentenceWords:
        """Return the ids of the words that `save` returned."""
        restored = cls((), len(SPECIAL), 1)
        restored.words += saved
        restored.numbers = {word: number for number, word in enumerate(restored.words) if number not in SPECIAL}
        return restored

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
        # Id 0 of the library is its unknown token. Shifted by 3 it is `UNKNOWN`, and all others come after it.
        self._use(BytePairs(text, find_characters(text.replace("\n", "")), vocab_size - UNKNOWN))

    def _use(self, pieces: BytePairs) -> None:
        self._pieces, self._kinds = pieces, set(pieces.kinds)
        self._known = re.compile(f"[{re.escape(pieces.kinds)}]+|.", re.DOTALL)

    def save(self) -> dict[str, Any]:
        """Return the learnt pairs as plain JSON values, for `restore`."""
        return self._pieces.save()

    @classmethod
    def restore(cls, saved: Mapping[str, Any]) -> SentencePieces:
        """Return the ids of the pairs that `save` returned."""
        restored = cls.__new__(cls)
        restored._use(BytePairs.restore(saved))
        return restored

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
