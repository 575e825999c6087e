"""Reads how relevant documents are to queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modules.data.files import DataFiles

Grades = dict[int, int]
"""The grade of each relevant document, by its number."""
_HIGHEST = 30


def read_grades(
    files: DataFiles, name: str, grades: Mapping[str, int] | None, queries: Sequence[str], documents: Mapping[str, int]
) -> dict[str, Grades]:
    """Read a table with a line per judgement: ids of query and document, and a code. A first line without a number is a header.

    The format of TREC, ``QUERY 0 DOCUMENT CODE``, is read too. The last judgement of a pair counts.

    Args:
        files: of the data set.
        name: of the table, its columns between white space.
        grades: grade of each code, and 0 of other codes; None: a code is a grade, and 0 if negative.
        queries: their ids.
        documents: their numbers by id.

    Raises:
        DataError: the file is missing or damaged, or names an unknown query or document.
    """
    text = files.read_text(name)
    found: dict[str, Grades] = {query: {} for query in queries}
    with files.decoding(name):
        for number, line in enumerate(text.splitlines(), start=1):
            cells = line.split()
            if not cells:
                continue
            if number == 1 and not _is_number(cells[-1]):
                continue
            if len(cells) not in (3, 4) or not _is_number(cells[-1]):
                raise ValueError(f"line {number} is not `QUERY DOCUMENT CODE`: {line[:60]!r}")
            query, document, code = cells[0], cells[-2], int(cells[-1])
            if query not in found or document not in documents:
                kind, id = ("query", query) if query not in found else ("document", document)
                raise ValueError(f"line {number} names the {kind} {id!r}, which does not exist")
            grade = max(0, code) if grades is None else grades.get(str(code), 0)
            if grade > _HIGHEST:
                raise ValueError(f"line {number} has the grade {grade}, above {_HIGHEST}; give data.grades for codes")
            found[query][documents[document]] = grade
    return {query: {number: grade for number, grade in own.items() if grade} for query, own in found.items()}


def _is_number(cell: str) -> bool:
    return cell.removeprefix("-").isascii() and cell.removeprefix("-").isdigit()
