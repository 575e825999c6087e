"""What vectors of words know: which words are alike, which pairs stand to each other as others do."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.data.base import Batch, Data, HasVocabulary, InputReader, Split, UserInputError
from modules.data.files import DataFiles
from modules.evaluator.analogies import Analogies, is_syntactic, read_analogies
from modules.evaluator.base import Prediction
from modules.evaluator.neighbours import nearest, neighbours, table
from modules.evaluator.word_similarity import WordPairs, read_pairs
from modules.model.base import HasEmbeddings

Files = Mapping[str, str | None]


class WordVectors:
    """Measures a model's word vectors by themselves, whatever it was trained for; batches do not matter.

    Gives ``analogies_accuracy``, of questions of meaning and of grammar apart too, and for every file of pairs its
    Spearman correlation, such as ``wordsim353_spearman``, each only where the vocabulary knows the words of a question at
    all; and shows the nearest neighbours of given words. Source: Mikolov et al. 2013, arXiv:1301.3781; Finkelstein et al.
    2001, doi:10.1145/371920.372094 (WordSim-353).
    """

    def __init__(
        self,
        root: str,
        folder: str,
        similarity: Files,
        analogies: Files,
        most_frequent: int,
        neighbours_of: Sequence[str],
        num_neighbours: int,
    ) -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: that of the files with questions.
            similarity: name to sha256 of files with pairs of words and a score; unpacked where a name ends in ``.gz``.
            analogies: the same of files as questions-words.txt.
            most_frequent: words among which answers are looked for, and questions are about.
            neighbours_of: words, or several in one text, whose neighbours are shown.
            num_neighbours: how many.
        """
        if min(most_frequent, num_neighbours) < 1:
            raise ValueError(
                f"WordVectors wants most_frequent and num_neighbours of at least 1, but got {most_frequent}, {num_neighbours}"
            )
        every = {**similarity, **analogies}
        self.files_of_questions = DataFiles(root, folder, every, part="evaluator") if every else None
        self.similarity_names, self.analogy_names = list(similarity), list(analogies)
        self.most_frequent, self.neighbours_of, self.num_neighbours = most_frequent, neighbours_of, num_neighbours

    def setup(self, data: Data) -> None:
        self.words = self._words(data)
        self.numbers = {word: number for number, word in enumerate(self.words)}
        self.pairs: dict[str, WordPairs] = {}
        for name in self.similarity_names:
            text = self._read(name)
            with self._decoding(name):
                self.pairs[_plain(name)] = read_pairs(text, self.numbers)
        self.analogies: dict[str, Analogies] = {}
        for name in self.analogy_names:
            text = self._read(name)
            with self._decoding(name):
                self.analogies[_plain(name)] = read_analogies(text, self.numbers)

    def update_with_model(self, model: nn.Module, batch: Batch) -> Tensor:
        """Nothing of a batch."""
        return torch.zeros(1, dtype=torch.float64)

    def compute_with_model(self, model: nn.Module, sums: Tensor) -> dict[str, float]:
        """Shares of the questions whose words are known, and rank correlations.

        Raises:
            ValueError: the model has no vectors of words.
        """
        vectors = _vectors_of(model)[: len(self.words)]
        found = {
            f"{name}_spearman": pairs.spearman(vectors) for name, pairs in self.pairs.items() if len(pairs.pairs) > 1
        }
        kinds: dict[str, tuple[int, int]] = {}
        for sections in self._answered(vectors).values():
            for section, (right, asked) in sections.items():
                for kind in ("", "_syntactic" if is_syntactic(section) else "_semantic"):
                    before = kinds.get(kind, (0, 0))
                    kinds[kind] = before[0] + right, before[1] + asked
        return found | {f"analogies{kind}_accuracy": right / asked for kind, (right, asked) in kinds.items()}

    def artifacts(self, model: nn.Module, split: Split) -> dict[str, bytes]:
        """Tables of neighbours, and of analogies by section; examples do not matter."""
        vectors = _vectors_of(model)[: len(self.words)]
        near = {
            phrase: neighbours(phrase, self.numbers, self.words, vectors, self.num_neighbours)
            for phrase in self.neighbours_of
        }
        lines = []
        for name, sections in self._answered(vectors).items():
            known, num_asked = len(self.analogies[name].questions), self.analogies[name].num_asked
            lines.append(f"{name}: {known} of {num_asked} questions have words that are known\n")
            lines += [
                f"{right / asked:7.3f}  {right:5} of {asked:5}  {section}\n"
                for section, (right, asked) in sections.items()
            ]
        shown = {"neighbours.txt": table(near), "analogies.txt": "".join(lines)}
        return {name: text.encode() for name, text in shown.items() if text}

    def predict(self, model: nn.Module, data: InputReader, given: Sequence[str]) -> list[Prediction]:
        """The nearest neighbours of a word, of the mean of several, or of what ``king - man + woman`` comes to."""
        words, vectors = self._words(data), _vectors_of(model)
        told = []
        for phrase in given:
            added, taken = (_numbers(data, part).to(vectors.device) for part in _sides(phrase))
            rows = torch.cat([added, taken])
            if len(rows) == 0:
                raise UserInputError(f"{phrase!r} has no word; write one, or such as 'king - man + woman'")
            direction = vectors[added].sum(0) - vectors[taken].sum(0)
            found = nearest(direction, rows[rows < len(words)], words, vectors[: len(words)], self.num_neighbours)
            text = "  ".join(f"{word} {cosine:.2f}" for word, cosine in found)
            told.append(Prediction(text, {"neighbours": [{"word": word, "cosine": cosine} for word, cosine in found]}))
        return told

    def _words(self, data: object) -> list[str]:
        if not isinstance(data, HasVocabulary):
            raise ValueError(
                f"evaluator WordVectors wants a data set that names its words, and {type(data).__name__} does not; "
                "take data=text8, or another evaluator"
            )
        return list(data.words)[: self.most_frequent]

    def _answered(self, vectors: Tensor) -> dict[str, dict[str, tuple[int, int]]]:
        """How many are right and how many were asked, by file of questions and section."""
        return {
            name: analogies.right(vectors) if len(analogies.questions) else {}
            for name, analogies in self.analogies.items()
        }

    def _read(self, name: str) -> str:
        assert self.files_of_questions is not None
        content = self.files_of_questions.read(name)
        with self._decoding(name):
            return (gzip.decompress(content) if name.endswith(".gz") else content).decode("utf-8")

    def _decoding(self, name: str) -> AbstractContextManager[None]:
        assert self.files_of_questions is not None
        return self.files_of_questions.decoding(name)


def _vectors_of(model: nn.Module) -> Tensor:
    """Of length 1, float [vocab_size, features]."""
    if not isinstance(model, HasEmbeddings):
        raise ValueError(
            f"evaluator WordVectors wants a model with word_vectors(), and {type(model).__name__} has none"
        )
    return F.normalize(model.word_vectors().detach().float(), dim=1)


def _sides(phrase: str) -> tuple[str, str]:
    """What is added and what is taken away; a sign counts where it stands by itself, up to the next."""
    sides: dict[str, list[str]] = {"+": [], "-": []}
    sign = "+"
    for term in phrase.split():
        if term in sides:
            sign = term
        else:
            sides[sign].append(term)
    return " ".join(sides["+"]), " ".join(sides["-"])


def _numbers(data: InputReader, text: str) -> Tensor:
    """int64 [words]."""
    inputs = data.read([text]) if text else torch.empty(1, 0, dtype=torch.int64)
    return (inputs if isinstance(inputs, Tensor) else inputs[0])[0]


def _plain(name: str) -> str:
    """A file's name as part of a metric's."""
    return re.sub(r"\W+", "_", name.removesuffix(".gz").rpartition(".")[0] or name).strip("_")
