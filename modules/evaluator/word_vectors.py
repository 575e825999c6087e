"""Word similarity and word analogies of word vectors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.data.base import Batch, Data, HasVocabulary, InputReader, Split, UserInputError
from modules.data.files import DataFiles
from modules.evaluator.base import Prediction
from modules.evaluator.words.analogies import Analogies, is_syntactic, read_analogies
from modules.evaluator.words.neighbours import nearest, neighbours, table
from modules.evaluator.words.word_similarity import WordPairs, read_pairs
from modules.model.base import HasEmbeddings

Files = Mapping[str, str | None]


class WordVectors:
    """Evaluates the word vectors of a model, independent of its objective and of the batches.

    Metrics: ``analogies_accuracy``, also separately for semantic and syntactic questions; and the Spearman correlation for
    every file of word pairs, such as ``wordsim353_spearman``. Questions with unknown words are left out. Artifacts: nearest
    neighbours of words. Source: Mikolov et al. 2013, arXiv:1301.3781; Finkelstein et al. 2001,
    doi:10.1145/371920.372094 (WordSim-353).
    """

    is_component = True

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
            folder: folder of the files with questions.
            similarity: name to sha256 of files with word pairs and a score; a name in ``.gz`` is decompressed.
            analogies: the same for files in the format of questions-words.txt.
            most_frequent: number of the most frequent words to use in questions and answers.
            neighbours_of: words or phrases whose neighbours are written.
            num_neighbours: number of neighbours.
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
                self.pairs[_metric_part(name)] = read_pairs(text, self.numbers)
        self.analogies: dict[str, Analogies] = {}
        for name in self.analogy_names:
            text = self._read(name)
            with self._decoding(name):
                self.analogies[_metric_part(name)] = read_analogies(text, self.numbers)

    def update_with_model(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return a zero; batches do not matter."""
        return torch.zeros(1, dtype=torch.float64)

    def compute_with_model(self, model: nn.Module, sums: Tensor) -> dict[str, float]:
        """Compute accuracies over the questions with known words, and rank correlations.

        Raises:
            ValueError: the model has no word vectors.
        """
        vectors = _normed_vectors(model)[: len(self.words)]
        correlations = {
            f"{name}_spearman": pairs.spearman(vectors) for name, pairs in self.pairs.items() if len(pairs.pairs) > 1
        }
        kinds: dict[str, tuple[int, int]] = {}
        for sections in self._count_correct(vectors).values():
            for section, (num_correct, total) in sections.items():
                for kind in ("", "_syntactic" if is_syntactic(section) else "_semantic"):
                    before = kinds.get(kind, (0, 0))
                    kinds[kind] = before[0] + num_correct, before[1] + total
        accuracies = {f"analogies{kind}_accuracy": num_correct / total for kind, (num_correct, total) in kinds.items()}
        return correlations | accuracies

    def artifacts(self, model: nn.Module, split: Split) -> dict[str, bytes]:
        """Return tables of neighbours and of analogies by section; examples do not matter."""
        vectors = _normed_vectors(model)[: len(self.words)]
        near = {
            phrase: neighbours(phrase, self.numbers, self.words, vectors, self.num_neighbours)
            for phrase in self.neighbours_of
        }
        lines = []
        for name, sections in self._count_correct(vectors).items():
            known, num_questions = len(self.analogies[name].questions), self.analogies[name].num_questions
            lines.append(f"{name}: {known} of {num_questions} questions have only known words\n")
            lines += [
                f"{num_correct / total:7.3f}  {num_correct:5} of {total:5}  {section}\n"
                for section, (num_correct, total) in sections.items()
            ]
        tables = {"neighbours.txt": table(near), "analogies.txt": "".join(lines)}
        return {name: text.encode() for name, text in tables.items() if text}

    def predict(self, model: nn.Module, data: InputReader, inputs: Sequence[str]) -> list[Prediction]:
        """Return the nearest neighbours of a word, of the mean of several words, or of a sum such as ``king - man + woman``."""
        words, vectors = self._words(data), _normed_vectors(model)
        predictions = []
        for phrase in inputs:
            added, subtracted = (_word_ids(data, part).to(vectors.device) for part in _split_signs(phrase))
            rows = torch.cat([added, subtracted])
            if len(rows) == 0:
                raise UserInputError(f"{phrase!r} has no word; write a word, or for example 'king - man + woman'")
            direction = vectors[added].sum(0) - vectors[subtracted].sum(0)
            near = nearest(direction, rows[rows < len(words)], words, vectors[: len(words)], self.num_neighbours)
            text = "  ".join(f"{word} {cosine:.2f}" for word, cosine in near)
            details = {"neighbours": [{"word": word, "cosine": cosine} for word, cosine in near]}
            predictions.append(Prediction(text, details))
        return predictions

    def _words(self, data: object) -> list[str]:
        if not isinstance(data, HasVocabulary):
            raise ValueError(
                f"evaluator WordVectors wants a data set with a vocabulary, but {type(data).__name__} has none; "
                "use data=text8, or another evaluator"
            )
        return list(data.words)[: self.most_frequent]

    def _count_correct(self, vectors: Tensor) -> dict[str, dict[str, tuple[int, int]]]:
        """Return the number of correct answers and of questions, by file and section."""
        return {
            name: analogies.count_correct(vectors) if len(analogies.questions) else {}
            for name, analogies in self.analogies.items()
        }

    def _read(self, name: str) -> str:
        assert self.files_of_questions is not None
        return self.files_of_questions.read_text(name)

    def _decoding(self, name: str) -> AbstractContextManager[None]:
        assert self.files_of_questions is not None
        return self.files_of_questions.decoding(name)


def _normed_vectors(model: nn.Module) -> Tensor:
    """Return the word vectors with length 1, float [vocab_size, features]."""
    if not isinstance(model, HasEmbeddings):
        raise ValueError(
            f"evaluator WordVectors wants a model with word_vectors(), but {type(model).__name__} has none; "
            "use model=skip_gram, or another evaluator"
        )
    return F.normalize(model.word_vectors().detach().float(), dim=1)


def _split_signs(phrase: str) -> tuple[str, str]:
    """Return the words to add and the words to subtract; a sign is a separate word and applies until the next sign."""
    sides: dict[str, list[str]] = {"+": [], "-": []}
    sign = "+"
    for term in phrase.split():
        if term in sides:
            sign = term
        else:
            sides[sign].append(term)
    return " ".join(sides["+"]), " ".join(sides["-"])


def _word_ids(data: InputReader, text: str) -> Tensor:
    """Return int64 [words]."""
    inputs = data.read([text]) if text else torch.empty(1, 0, dtype=torch.int64)
    return (inputs if isinstance(inputs, Tensor) else inputs[0])[0]


def _metric_part(name: str) -> str:
    """Return the name of a file as part of the name of a metric."""
    return re.sub(r"\W+", "_", name.removesuffix(".gz").rpartition(".")[0] or name).strip("_")
