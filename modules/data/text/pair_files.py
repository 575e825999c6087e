"""Reads sentences and their translations from two aligned files, or from a table with one column per language."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence

from modules.data.base import DataError
from modules.data.files import DataFiles

Row = tuple[str, str]  # a sentence and its translation
Examples = list[tuple[str, tuple[str, ...]]]  # a sentence and its reference translations


def read_aligned(files: DataFiles, source: str, target: str) -> list[Row]:
    """Read the pairs of lines of two files; a name in ``.gz`` is decompressed.

    Raises:
        DataError: a file is missing or damaged, or the numbers of lines differ.
    """
    sides = []
    for name in (source, target):
        sides.append(files.read_text(name).removesuffix("\n").split("\n"))
    if len(sides[0]) != len(sides[1]):
        raise DataError(
            f"data.folder={files.folder!r}: {source} has {len(sides[0])} lines and {target} {len(sides[1])}; the files must "
            "be aligned line by line; use files that belong together"
        )
    return list(zip(*sides, strict=True))


def read_table(files: DataFiles, name: str, member: str | None, columns: tuple[int, int]) -> list[Row]:
    """Read two columns of a tab-separated file.

    Args:
        files: of the data set.
        name: of the file; a name in ``.gz`` is decompressed.
        member: name of the table in the file, which is a zip archive; None: the file is the table.
        columns: indices of the source and target columns.

    Raises:
        DataError: the file is missing or damaged, or a line has too few columns.
    """
    text = files.read_text(name) if member is None else files.read_member(name, member)
    with files.decoding(name):
        rows = []
        for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
            cells = line.split("\t")
            if len(cells) <= max(columns):
                raise ValueError(f"line {number} has {len(cells)} columns, but data.languages needs {max(columns) + 1}")
            rows.append((cells[columns[0]], cells[columns[1]]))
    return rows


def split_rows(rows: Sequence[Row], num_val: int, num_test: int) -> dict[str, Examples]:
    """Divide rows into three splits that share no sentence, in either language.

    Sentences that are connected by translations, directly or over other sentences, are in the same split. The split depends
    only on the text, so both directions have the same splits. A training example is a row; an example of validation and
    test is a source with all its translations as references.

    Args:
        rows: without duplicates.
        num_val: sources to validate on.
        num_test: sources to test on.

    Raises:
        DataError: there are too few rows.
    """
    groups = sorted(_connected(rows).values(), key=_pseudo_random_key)
    splits: dict[str, Examples] = {}
    for split, wanted in (("val", num_val), ("test", num_test)):
        examples: Examples = []
        while groups and len(examples) < wanted:
            references: dict[str, list[str]] = defaultdict(list)
            for source, target in groups.pop():
                references[source].append(target)
            examples += [(source, tuple(targets)) for source, targets in references.items()]
        if len(examples) < wanted or not groups:
            raise DataError(
                f"data.num_val={num_val} and data.num_test={num_test} leave nothing of {len(rows)} pairs to train on; "
                "lower them, or use more text"
            )
        splits[split] = examples[:wanted]
    splits["train"] = [(source, (target,)) for group in groups for source, target in group]
    return splits


def _connected(rows: Sequence[Row]) -> dict[tuple[int, str], list[Row]]:
    """Group rows so that groups share no sentence."""
    parents: dict[tuple[int, str], tuple[int, str]] = {}
    root = _finder(parents)
    for source, target in rows:
        parents[root((0, source))] = root((1, target))
    groups: dict[tuple[int, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[root((0, row[0]))].append(row)
    return groups


def _finder(parents: dict[tuple[int, str], tuple[int, str]]) -> Callable[[tuple[int, str]], tuple[int, str]]:
    def root(sentence: tuple[int, str]) -> tuple[int, str]:
        while (parent := parents.setdefault(sentence, sentence)) != sentence:
            parents[sentence] = parents[parent]
            sentence = parent
        return sentence

    return root


def _pseudo_random_key(group: Sequence[Row]) -> str:
    """Return a hash that is the same for both directions of translation."""
    return hashlib.sha256(min(min(row) for row in group).encode()).hexdigest()
