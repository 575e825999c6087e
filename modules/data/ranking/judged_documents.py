"""Queries in words, a collection of documents, and judgements of how relevant they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from modules.data.base import IGNORED, Batch, DataError, UserInputError
from modules.data.files import DataFiles
from modules.data.ranking.collection import NUM_SIGNALS, Candidates, Collection, Document, Inputs
from modules.data.ranking.judgements import Grades, read_grades
from modules.data.ranking.latent_vectors import LatentVectors
from modules.data.ranking.query_split import QuerySplit
from modules.data.tensors import check_at_least, check_split
from modules.data.text.json_lines import read_json_lines
from modules.data.text.vocabulary import find_words

_PIECE = 200  # words of a background text, about as many as an abstract has


class JudgedDocuments:
    """A query is an example: its best documents by BM25, which the model puts into a better order.

    Words are sequences of letters in lower case, for BM25 and vectors alike. Inputs are `Inputs`.
    Targets are the grades of the candidates, int64 [batch, candidates], or `IGNORED` for padding; and of the relevant
    documents beyond them the places by BM25, from 0, and the grades, int64 [batch, documents] each, or `IGNORED`.
    Of the queries in the order of the file, every ``held_out_every``-th is for test, and the one after it for validation.
    """

    is_component = True
    takes: Final = "text"

    def __init__(
        self,
        root: str,
        folder: str,
        files: Mapping[str, str | None],
        grades: Mapping[str, int] | None,
        num_candidates: int,
        vector_size: int,
        vocab_size: int,
        min_count: int = 2,
        held_out_every: int = 5,
        background_weight: float = 0.3,
        max_missed: int = 200,
    ) -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: folder of this data set.
            files: name to sha256 of at least three files, in this order: the documents, JSON lines with ``id``, ``text`` and
                perhaps ``title``; the queries, JSON lines with ``id`` and ``text``; the judgements, a table that `read_grades`
                reads; and texts in general, if any, for what words mean beyond the documents.
            grades: grade of each code, the highest for the most relevant documents; other codes are 0. Null: codes are grades.
            num_candidates: documents that the model ranks for a query.
            vector_size: features of a vector.
            vocab_size: maximum number of words with a vector.
            min_count: least number of texts that have a word.
            held_out_every: at least 3.
            background_weight: of 200 words of the texts in general, where a document counts 1.
            max_missed: most relevant documents of a query that are no candidates.
        """
        check_at_least(
            "data", 1, vocab_size=vocab_size, min_count=min_count, vector_size=vector_size, max_missed=max_missed
        )
        check_at_least("data", 2, num_candidates=num_candidates)
        check_at_least("data", 3, held_out_every=held_out_every)
        if len(files) < 3:
            raise ValueError(
                "JudgedDocuments wants at least three files in data.files: documents, queries and judgements, but got "
                f"{list(files)}"
            )
        if not 0 < background_weight < float("inf"):
            raise ValueError(f"data.background_weight={background_weight} is not above 0; write a number such as 0.3")
        if grades is not None and min(grades.values(), default=0) < 0:
            raise ValueError(f"data.grades={dict(grades)} has a grade below 0; 0 means not relevant")
        self.files = DataFiles(root, folder, files)
        self.names = list(files)
        self.grades = None if grades is None else {str(code): grade for code, grade in grades.items()}
        self.num_candidates, self.vector_size, self.vocab_size = num_candidates, vector_size, vocab_size
        self.min_count, self.held_out_every, self.max_missed = min_count, held_out_every, max_missed
        self.background_weight = background_weight

    def load(self, split: str) -> QuerySplit:
        check_split("JudgedDocuments", split)
        places = {"test": [0], "val": [1], "train": range(2, self.held_out_every)}[split]
        queries = [each for number, each in enumerate(self._queries) if number % self.held_out_every in places]
        if split == "train":  # a query without a relevant document teaches nothing
            queries = [(text, grades) for text, grades in queries if grades]
        if not queries:
            raise DataError(
                f"data.folder={self.files.folder!r}: the split '{split}' has no query; {self.names[1]} needs at least 3, and "
                f"{self.names[2]} a relevant document for one of them; add some, or check data.grades"
            )
        found = [self.collection.search(text) for text, _ in queries]
        ranked = [self._rank(each, grades) for each, (_, grades) in zip(found, queries, strict=True)]
        longest = max(1, *(len(missed) for _, missed in ranked))
        if longest > self.max_missed:
            raise DataError(
                f"data.max_missed={self.max_missed}: a query has {longest} relevant documents that are not among its "
                f"{self.num_candidates} candidates; set data.max_missed={longest}"
            )
        missed = torch.full((len(ranked), longest, 2), IGNORED)
        for row, (_, beyond) in zip(missed, ranked, strict=True):
            row[: len(beyond)] = torch.tensor(beyond, dtype=torch.int64).reshape(-1, 2)
        targets = torch.stack([own for own, _ in ranked]), missed[..., 0], missed[..., 1]
        return QuerySplit([text for text, _ in queries], found, targets, self.collection)

    def example(self, batch_size: int) -> Batch:
        candidates = (batch_size, self.num_candidates)
        inputs = (
            torch.zeros(batch_size, self.vector_size),
            torch.zeros(*candidates, self.vector_size),
            torch.zeros(*candidates, NUM_SIGNALS),
            torch.ones(candidates, dtype=torch.bool),
        )
        missed = torch.full((batch_size, self.max_missed), IGNORED)
        return inputs, (torch.zeros(candidates, dtype=torch.int64), missed, missed)

    def read(self, inputs: Sequence[str]) -> Inputs:
        """Return queries with their candidates, as the model gets them."""
        for text in inputs:
            if not find_words(text):
                raise UserInputError(f"the query {text!r} has no word; write at least one")
        found = [self.collection.search(text) for text in inputs]
        parts = zip(*((each.vector, each.numbers, each.signals) for each in found), strict=True)
        return self.collection.gather(*(torch.stack(part) for part in parts))

    @cached_property
    def collection(self) -> Collection:
        """The documents; reads their files at the first use.

        Raises:
            DataError: as `load`.
        """
        name = self.names[0]
        rows = read_json_lines(self.files, name, ("id", "text"))
        documents = [Document(str(each["id"]), str(each.get("title") or ""), str(each["text"])) for each in rows]
        with self.files.decoding(name):
            if len({each.id for each in documents}) < len(documents):
                raise ValueError("two documents have the same id")
            words = [find_words(each.text) for each in documents]
            vectors = LatentVectors.fit(
                words,
                self._read_background(),
                self.background_weight,
                self.vector_size,
                self.vocab_size,
                self.min_count,
            )
        return Collection(documents, vectors, self.num_candidates)

    def save_reader(self) -> Any:
        documents = [[each.id, each.title, each.text] for each in self.collection.documents]
        return {"documents": documents, "vectors": self.collection.vectors.save()}

    def restore_reader(self, saved: Any) -> None:
        documents = [Document(*each) for each in saved["documents"]]
        self.collection = Collection(documents, LatentVectors.restore(saved["vectors"]), self.num_candidates)

    @cached_property
    def _queries(self) -> list[tuple[str, Grades]]:
        """Each query with the grades of its relevant documents."""
        _, queries, judgements, *_ = self.names
        rows = read_json_lines(self.files, queries, ("id", "text"))
        numbers = {each.id: number for number, each in enumerate(self.collection.documents)}
        ids = [str(each["id"]) for each in rows]
        grades = read_grades(self.files, judgements, self.grades, ids, numbers)
        return [(str(each["text"]), grades[id]) for id, each in zip(ids, rows, strict=True)]

    def _rank(self, found: Candidates, grades: Grades) -> tuple[Tensor, list[tuple[int, int]]]:
        """The grades of the candidates, and place and grade of every other relevant document."""
        own = torch.full((self.num_candidates,), IGNORED)
        order = found.order.tolist()
        for place, number in enumerate(order[: self.num_candidates]):
            own[place] = grades.get(number, 0)
        missed = [
            (place, grades[number])
            for place, number in enumerate(order)
            if place >= self.num_candidates and number in grades
        ]
        return own, missed

    def _read_background(self) -> list[list[str]]:
        words = [word for name in self.names[3:] for word in find_words(self.files.read_text(name))]
        return [words[first : first + _PIECE] for first in range(0, len(words), _PIECE)]
