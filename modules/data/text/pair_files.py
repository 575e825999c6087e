"""Files of sentences and their translations: two with a line for a line, or one with a column a language."""

from __future__ import annotations

import gzip
import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from io import BytesIO
from zipfile import ZipFile

from modules.data.base import DataError
from modules.data.files import DataFiles

Row = tuple[str, str]  # a sentence and its translation
Examples = list[tuple[str, tuple[str, ...]]]  # a sentence and what it may be translated to


def read_aligned(files: DataFiles, source: str, target: str) -> list[Row]:
    """The lines of two files, side by side; unpacked where a name ends in ``.gz``.

    Raises:
        DataError: one is missing or damaged, or they have not as many lines.
    """
    sides = []
    for name in (source, target):
        content = files.read(name)
        with files.decoding(name):
            text = (gzip.decompress(content) if name.endswith(".gz") else content).decode("utf-8")
        sides.append(text.removesuffix("\n").split("\n"))
    if len(sides[0]) != len(sides[1]):
        raise DataError(
            f"data.folder={files.folder!r}: {source} has {len(sides[0])} lines and {target} {len(sides[1])}; each line is the "
            "translation of the same line of the other; bring files that belong together"
        )
    return list(zip(*sides, strict=True))


def read_table(files: DataFiles, name: str, member: str | None, columns: tuple[int, int]) -> list[Row]:
    """Two columns of a file with tabs between them.

    Args:
        files: has it.
        name: of the file; unpacked where it ends in ``.gz``.
        member: the table's name in it, where it is a zip archive; None: it is the table.
        columns: that of the source and that of the target, counted from 0.

    Raises:
        DataError: it is missing, damaged or has too few columns somewhere.
    """
    content = files.read(name)
    with files.decoding(name):
        if member is not None:
            with ZipFile(BytesIO(content)) as archive:
                content = archive.read(member)
        text = (gzip.decompress(content) if name.endswith(".gz") else content).decode("utf-8")
        rows = []
        for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
            cells = line.split("\t")
            if len(cells) <= max(columns):
                raise ValueError(f"line {number} has {len(cells)} columns, and data.languages needs {max(columns) + 1}")
            rows.append((cells[columns[0]], cells[columns[1]]))
    return rows


def deal_out(rows: Sequence[Row], num_val: int, num_test: int) -> dict[str, Examples]:
    """Three splits of which no two have a sentence in common, in either language.

    Sentences that are translations of each other, however many steps away, stay together; where they go follows from the
    text alone, so that both directions have the same splits. To train, every row is an example; to validate and test,
    every source is, with all its translations as references.

    Args:
        rows: each once.
        num_val: sources to validate on.
        num_test: sources to test on.

    Raises:
        DataError: there are not that many, and some more to train on.
    """
    groups = sorted(_connected(rows).values(), key=_chance)
    dealt: dict[str, Examples] = {}
    for split, wanted in (("val", num_val), ("test", num_test)):
        examples: Examples = []
        while groups and len(examples) < wanted:
            references: dict[str, list[str]] = defaultdict(list)
            for source, target in groups.pop():
                references[source].append(target)
            examples += [(source, tuple(targets)) for source, targets in references.items()]
        if len(examples) < wanted or not groups:
            raise DataError(
                f"data.num_val={num_val} and data.num_test={num_test} leave nothing to train on of {len(rows)} pairs; "
                "lower them, or bring more text"
            )
        dealt[split] = examples[:wanted]
    dealt["train"] = [(source, (target,)) for group in groups for source, target in group]
    return dealt


def _connected(rows: Sequence[Row]) -> dict[tuple[int, str], list[Row]]:
    """Rows by groups that have no sentence in common."""
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


def _chance(group: Sequence[Row]) -> str:
    """A number as good as drawn, the same whichever language is the source's."""
    return hashlib.sha256(min(min(row) for row in group).encode()).hexdigest()
