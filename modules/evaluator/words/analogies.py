"""Word analogies such as "Athens is to Greece as Oslo is to ?", answered by vector arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

_BLOCK = 512  # questions; each needs a score for every word


@dataclass(frozen=True)
class Analogies:
    """The questions of a file whose words are all known, by section."""

    sections: tuple[str, ...]
    ends: tuple[int, ...]
    """End index of each section in `questions`."""
    questions: Tensor
    """int64 [questions, 4], word ids; the fourth is the answer."""
    num_questions: int
    """All questions of the file, including those with unknown words."""

    def count_correct(self, vectors: Tensor) -> dict[str, tuple[int, int]]:
        """Return the number of correct answers and of questions for every section that is not empty.

        The answer is the word nearest to ``b - a + c``, without these three. Source: Mikolov et al. 2013, arXiv:1301.3781.

        Args:
            vectors: float [words, features], of length 1; the candidates for an answer.
        """
        hits = torch.cat([_hits(part, vectors) for part in self.questions.split(_BLOCK)])  # type: ignore[no-untyped-call]
        spans = pairwise((0, *self.ends))
        return {
            name: (int(hits[first:last].sum()), last - first)
            for name, (first, last) in zip(self.sections, spans, strict=True)
            if last > first
        }


def read_analogies(text: str, numbers: Mapping[str, int]) -> Analogies:
    """Parse ``: section`` lines and lines of four words, whose case does not matter.

    Args:
        text: in the format of word2vec's questions-words.txt.
        numbers: ids of the known words.

    Raises:
        ValueError: a line has another format.
    """
    sections, ends, questions, num_questions = list[str](), list[int](), list[list[int]](), 0
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.lower().split()
        if words[:1] == [":"]:
            ends += [len(questions)] if sections else []
            sections.append(" ".join(words[1:]))
        elif len(words) == 4 and sections:
            num_questions += 1
            if all(word in numbers for word in words):
                questions.append([numbers[word] for word in words])
        elif words:
            raise ValueError(f"line {number} is neither ': section' nor four words below one: {line[:80]!r}")
    ends += [len(questions)] if sections else []
    return Analogies(
        tuple(sections), tuple(ends), torch.tensor(questions, dtype=torch.int64).view(-1, 4), num_questions
    )


def is_syntactic(section: str) -> bool:
    """True for a section about grammar; its name in word2vec's file begins with "gram"."""
    return section.startswith("gram")


def _hits(questions: Tensor, vectors: Tensor) -> Tensor:
    """Return bool [questions], True for correct answers."""
    questions = questions.to(vectors.device)
    a, b, c, answers = questions.unbind(1)
    scores = (vectors[b] - vectors[a] + vectors[c]) @ vectors.T
    scores.scatter_(1, questions[:, :3], float("-inf"))
    return scores.argmax(dim=1) == answers
