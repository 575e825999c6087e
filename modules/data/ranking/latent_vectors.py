"""Vectors of texts from the words that occur in the same texts."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np


class LatentVectors:
    """Latent semantic analysis: vectors of words whose sums are near for texts about the same thing, also without a common word.

    A truncated singular value decomposition of the matrix of texts and words, each entry ``(1 + ln count) * idf`` and each text
    of length 1. Source: Deerwester et al. 1990, doi:10.1002/(SICI)1097-4571(199009)41:6<391::AID-ASI1>3.0.CO;2-9.
    """

    def __init__(self, words: Sequence[str], vectors: np.ndarray) -> None:
        """
        Args:
            words: that have a vector; all other words are left out.
            vectors: float32 [words, features], with the inverse document frequency in them.
        """
        self.words, self.vectors = words, vectors
        self.numbers = {word: number for number, word in enumerate(words)}

    @classmethod
    def fit(
        cls,
        texts: Sequence[Sequence[str]],
        background: Sequence[Sequence[str]],
        background_weight: float,
        vector_size: int,
        vocab_size: int,
        min_count: int,
    ) -> LatentVectors:
        """Find the vectors.

        Args:
            texts: the words of each text.
            background: further texts, for what the words mean in general.
            background_weight: of such a text, beside 1.
            vector_size: features of a vector.
            vocab_size: maximum number of words; those of ``texts`` first, then by the number of texts that have them.
            min_count: least number of texts that have a word.

        Raises:
            ValueError: there are fewer texts or words than features.
        """
        from scipy.sparse import csr_matrix
        from sklearn.decomposition import TruncatedSVD

        own = Counter(word for text in texts for word in set(text))
        counts = own + Counter(word for text in background for word in set(text))
        known = [word for word in counts if counts[word] >= min_count]
        known.sort(key=lambda word: (word not in own, -counts[word], word))
        words, num_texts = known[:vocab_size], len(texts) + len(background)
        if vector_size >= min(len(words), num_texts):
            raise ValueError(
                f"{num_texts} texts with {len(words)} words that at least {min_count} texts have are too few for "
                f"data.vector_size={vector_size}; lower it below {min(len(words), num_texts)}"
            )
        occurrences = np.array([counts[word] for word in words])
        rarity = np.log1p((num_texts - occurrences + 0.5) / (occurrences + 0.5))
        numbers = {word: number for number, word in enumerate(words)}
        rows, columns, values = list[int](), list[int](), list[float]()
        for row, text in enumerate([*texts, *background]):
            weight = 1.0 if row < len(texts) else background_weight
            entries = [(number, value * rarity[number]) for number, value in _count(text, numbers)]
            length = np.sqrt(sum(value * value for _, value in entries))
            rows += [row] * len(entries)
            columns += [number for number, _ in entries]
            values += [weight * value / length for _, value in entries]
        matrix = csr_matrix((values, (rows, columns)), (num_texts, len(words)))
        directions = TruncatedSVD(vector_size, n_iter=3, random_state=0).fit(matrix).components_
        return cls(words, (directions.T * rarity[:, None]).astype(np.float32))

    def embed(self, text: Sequence[str]) -> np.ndarray:
        """Return the vector of a text, float32 [features], of length 1; zeros if no word is known."""
        entries = list(_count(text, self.numbers))
        total = np.zeros(self.vectors.shape[1], np.float32)
        for number, value in entries:
            total += np.float32(value) * self.vectors[number]
        return total / max(np.float32(np.linalg.norm(total)), np.float32(1e-9))

    def save(self) -> dict[str, Any]:
        """Return words and vectors as plain JSON values, for `restore`."""
        content = base64.b64encode(self.vectors.astype("<f4").tobytes()).decode()
        return {"words": list(self.words), "vectors": content, "vector_size": self.vectors.shape[1]}

    @classmethod
    def restore(cls, saved: Mapping[str, Any]) -> LatentVectors:
        """Return the vectors that `save` returned."""
        vectors = np.frombuffer(base64.b64decode(saved["vectors"]), "<f4").reshape(-1, saved["vector_size"])
        return cls(saved["words"], vectors.astype(np.float32))


def _count(text: Sequence[str], numbers: Mapping[str, int]) -> Iterator[tuple[int, float]]:
    """Yield the id of each known word of a text, and 1 + ln of how often it occurs."""
    for word, count in Counter(text).items():
        if word in numbers:
            yield numbers[word], 1 + float(np.log(count))
