"""Word vectors in the text format of word2vec, which gensim, spaCy and many others read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor


def write_word2vec(path: Path, words: Sequence[str], vectors: Tensor) -> None:
    """Write a line of counts, then one for every word: the word and its numbers, the most frequent word first.

    Of a run they are ``words`` of its data set, and `word_vectors` of its model, or ``words.weight`` of its safetensors.

    Args:
        path: the file; what it holds is replaced.
        words: without white space; numbers beyond them have no word, and are left out.
        vectors: float [vocab_size, features].

    Raises:
        ValueError: there are fewer vectors than words, or a word has white space in it.
    """
    if len(vectors) < len(words):
        raise ValueError(f"write_word2vec wants a vector for each of {len(words)} words, but got {len(vectors)}")
    broken = [word for word in words if not word or word.split() != [word]]
    if broken:
        raise ValueError(f"write_word2vec wants words without white space, but got {broken[0]!r}; replace it")
    with path.open("w", encoding="utf-8") as file:
        file.write(f"{len(words)} {vectors.shape[1]}\n")
        for word, vector in zip(words, vectors.detach().cpu().float(), strict=False):
            file.write(f"{word} {' '.join(f'{number:.6g}' for number in vector.tolist())}\n")
