"""Questions such as "Athens is to Greece as Oslo is to what", answered by sums of word vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

_AT_ONCE = 512  # questions; the answers' scores are a row of the vocabulary each


@dataclass(frozen=True)
class Analogies:
    """Those of a file whose words are all known, section by section."""

    sections: tuple[str, ...]
    ends: tuple[int, ...]
    """Where each section ends among the questions."""
    questions: Tensor
    """int64 [questions, 4], numbers of words; the fourth is the answer."""
    num_asked: int
    """In the file, those with unknown words too."""

    def right(self, vectors: Tensor) -> dict[str, tuple[int, int]]:
        """Of every section, the questions answered right, and all of them; empty sections are left out.

        The answer is the word nearest to ``b - a + c``, none of the three. Source: Mikolov et al. 2013, arXiv:1301.3781.

        Args:
            vectors: float [words, features], of length 1; the words that may be an answer.
        """
        hits = torch.cat([_hits(part, vectors) for part in self.questions.split(_AT_ONCE)])  # type: ignore[no-untyped-call]
        spans = pairwise((0, *self.ends))
        return {
            name: (int(hits[first:last].sum()), last - first)
            for name, (first, last) in zip(self.sections, spans, strict=True)
            if last > first
        }


def read_analogies(text: str, numbers: Mapping[str, int]) -> Analogies:
    """Parse ``: section`` lines and lines of four words, whose case does not matter.

    Args:
        text: as word2vec's questions-words.txt.
        numbers: of the known words.

    Raises:
        ValueError: a line is neither.
    """
    sections, ends, questions, num_asked = list[str](), list[int](), list[list[int]](), 0
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.lower().split()
        if words[:1] == [":"]:
            ends += [len(questions)] if sections else []
            sections.append(" ".join(words[1:]))
        elif len(words) == 4 and sections:
            num_asked += 1
            if all(word in numbers for word in words):
                questions.append([numbers[word] for word in words])
        elif words:
            raise ValueError(f"line {number} is neither ': section' nor four words below one: {line[:80]!r}")
    ends += [len(questions)] if sections else []
    return Analogies(tuple(sections), tuple(ends), torch.tensor(questions, dtype=torch.int64).view(-1, 4), num_asked)


def is_syntactic(section: str) -> bool:
    """Whether a section asks for grammar; word2vec's say so in their names."""
    return section.startswith("gram")


def _hits(questions: Tensor, vectors: Tensor) -> Tensor:
    """bool [questions]."""
    questions = questions.to(vectors.device)
    a, b, c, answers = questions.unbind(1)
    scores = (vectors[b] - vectors[a] + vectors[c]) @ vectors.T
    scores.scatter_(1, questions[:, :3], float("-inf"))
    return scores.argmax(dim=1) == answers
