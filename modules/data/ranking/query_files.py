"""Queries with their documents: signals of each document, and grades of how relevant it is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from modules.data.base import IGNORED, Batch
from modules.data.files import DataFiles
from modules.data.tensors import TensorSplit, check_at_least, check_split


class QueryFiles:
    """A query is an example: the signals of its documents, and their grades.

    Files in the format of SVMlight: a document per line, ``GRADE INDEX:VALUE ...`` with indices from 0 and 0 for values that are
    left out; beside each a file with the number of documents of every query. Every ``val_every``-th training query is
    for validation. Signals are standardised by the documents of the training split.
    Source of the format: Joachims 1999; of the files: LightGBM's example ``lambdarank``.
    """

    is_component = True

    def __init__(
        self,
        root: str,
        folder: str,
        files: Mapping[str, str | None],
        num_features: int,
        max_documents: int,
        val_every: int = 5,
    ) -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: folder of this data set.
            files: name to sha256 of four files, in this order: the training documents, their queries, the test documents, their
                queries.
            num_features: signals of a document.
            max_documents: of a query; shorter lists are padded to it.
            val_every: every how many-th training query is for validation, at least 2.
        """
        if len(files) != 4:
            raise ValueError(
                f"QueryFiles wants four files in data.files: documents and queries to train, documents and queries to test, but "
                f"got {list(files)}"
            )
        check_at_least("QueryFiles", 1, num_features=num_features, max_documents=max_documents)
        check_at_least("QueryFiles", 2, val_every=val_every)
        self.files, self.names = DataFiles(root, folder, files), list(files)
        self.num_features, self.max_documents, self.val_every = num_features, max_documents, val_every

    def load(self, split: str) -> TensorSplit:
        check_split("QueryFiles", split)
        signals, grades = self._read(*self.names[:2])
        is_held_back = torch.arange(len(grades)) % self.val_every == self.val_every - 1
        real = signals[~is_held_back][grades[~is_held_back] != IGNORED]
        if len(real) == 0:
            raise ValueError(
                f"{self.names[1]}: no query is left to train on with data.val_every={self.val_every}; raise it"
            )
        mean, std = real.mean(0), real.std(0, unbiased=False)
        if split == "test":
            signals, grades = self._read(*self.names[2:])
        else:
            chosen = is_held_back if split == "val" else ~is_held_back
            signals, grades = signals[chosen], grades[chosen]
        # A signal that never changes in training says nothing.
        scaled = torch.where(std > 0, (signals - mean) / std.clamp_min(1e-12), 0)
        return TensorSplit(scaled * (grades != IGNORED)[..., None], grades)

    def example(self, batch_size: int) -> Batch:
        signals = torch.zeros(batch_size, self.max_documents, self.num_features)
        return signals, torch.zeros(batch_size, self.max_documents, dtype=torch.int64)

    def _read(self, documents: str, queries: str) -> tuple[Tensor, Tensor]:
        """Signals, float [queries, max_documents, num_features], and grades, int64 [queries, max_documents], or `IGNORED`."""
        text = self.files.read_text(documents)
        with self.files.decoding(documents):
            rows = [self._parse(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
        counts_text = self.files.read_text(queries)
        with self.files.decoding(queries):
            counts = [int(line) for line in counts_text.split()]
            if sum(counts) != len(rows) or min(counts, default=0) < 1:
                raise ValueError(f"its numbers of documents add up to {sum(counts)}, but {documents} has {len(rows)}")
            if max(counts) > self.max_documents:
                raise ValueError(
                    f"a query has {max(counts)} documents, but data.max_documents is {self.max_documents}; raise it to "
                    f"{max(counts)}"
                )
        signals = np.zeros((len(counts), self.max_documents, self.num_features), np.float32)
        grades = np.full((len(counts), self.max_documents), IGNORED, np.int64)
        first = 0
        for query, count in enumerate(counts):
            own = rows[first : first + count]
            signals[query, :count] = [row for row, _ in own]
            grades[query, :count] = [grade for _, grade in own]
            first += count
        return torch.from_numpy(signals), torch.from_numpy(grades)

    def _parse(self, number: int, line: str) -> tuple[np.ndarray, int]:
        row = np.zeros(self.num_features, np.float32)
        try:
            grade, *pairs = line.partition("#")[0].split()
            for pair in pairs:
                index, value = pair.split(":")
                if index == "qid":
                    continue
                if not 0 <= int(index) < self.num_features:
                    raise ValueError(
                        f"line {number} has the signal {index}, but data.num_features is {self.num_features}"
                    )
                row[int(index)] = float(value)
            if not np.isfinite(row).all() or not 0 <= int(grade) <= 30:
                raise ValueError(f"line {number} has a value that is not finite, or a grade that is not from 0 to 30")
            return row, int(grade)
        except ValueError as err:
            if str(err).startswith("line "):
                raise
            raise ValueError(f"line {number} is not `GRADE INDEX:VALUE ...`: {line[:60]!r}") from None
