"""Reads tables: CSV, JSON lines, and data sets of Hugging Face that were saved to a folder. Imports no torch, see `locate`."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import hashlib
import io
import json
import lzma
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

import pandas as pd

from modules.data.own.locate import sha256_of
from modules.data.own.saved_dataset import find_arrow_files, read_arrow

SNIFFED: Final = 2**16
"""Bytes from which the separator of the columns is guessed."""
SEPARATORS: Final = ",;\t|"
ENCODING: Final = "utf-8-sig"
SKIP: Final = "set data.on_bad_example=skip to train without such rows"
ZIP: Final = b"PK\x03\x04"
OPENERS: Final[dict[bytes, Any]] = {b"\x1f\x8b\x08": gzip.open, b"\xfd7zXZ\0": lzma.open} | {
    b"BZh%d1AY&SY" % level: bz2.open for level in range(1, 10)
}
"""By the first bytes, long enough that no name of a column is taken for them, such as ``PK``."""
UNREADABLE: Final = (
    OSError, ValueError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, csv.Error,
    pd.errors.ParserError, pd.errors.ParserWarning,
)  # fmt: skip
"""What the readers raise; a `RuntimeError` is that of a ZIP file with a password or an unknown method."""


class Rows:
    """The rows of a table, and the places of those that cannot be read."""

    def __init__(self, table: pd.DataFrame, skipped: tuple[str, ...] = ()) -> None:
        self.table, self.skipped = table, skipped


def read_rows(path: Path, on_bad_example: str = "error") -> Rows:
    """Read the rows of a table.

    Args:
        path: of a text file in UTF-8 with the names of its columns in the first line, or a JSON object in each line, which may
            be compressed (``.gz``, ``.bz2``, ``.xz``, ``.zip``); or of a folder that `datasets` saved.
        on_bad_example: "skip": leave out lines of a file that are no rows; "error": refuse the file.

    Raises:
        ValueError: the file cannot be read as a table.
    """
    is_skipping = on_bad_example == "skip"
    try:
        if files := find_arrow_files(path):
            return _check_names(Rows(_flatten(read_arrow(files))))
        with _open(path) as file:
            start = file.read(SNIFFED)
        text = start.removeprefix(codecs.BOM_UTF8).lstrip()
        if text.startswith(b"{"):
            return _read_json_lines(path, is_skipping=is_skipping)
        if text.startswith(b"[") and text[1:].lstrip().startswith(b"{"):
            raise ValueError("it is one JSON list, instead of one object in each line")
        return _check_names(_read_csv(path, start, is_skipping=is_skipping))
    except _BadLineError as err:
        raise ValueError(f"{path}, {err}; correct it, or {SKIP}") from err
    except UNREADABLE as err:
        reason = " ".join(str(err).split()) or type(err).__name__
        is_line = isinstance(err, pd.errors.ParserError | pd.errors.ParserWarning | UnicodeDecodeError)
        hint = f"save it as CSV in UTF-8, or {SKIP}" if is_line and not is_skipping else "correct it"
        raise ValueError(f"{path} cannot be read as a table ({reason}); {hint}") from err


def hash_table(path: Path) -> str:
    """The sha256 of a file, or of all files of a folder of `datasets`.

    Raises:
        ValueError: a file cannot be read.
    """
    files = find_arrow_files(path)
    if not files:
        return sha256_of(path)
    return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()


def flatten_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row in which each number of a list, and each field of an object, is a column: ``size.0``, ``size.1``, ``box.left``."""
    flat = dict[str, Any]()
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= flatten_row({f"{name}.{key}": each for key, each in value.items()})
        elif isinstance(value, list) and value and all(isinstance(each, int | float) for each in value):
            flat |= {f"{name}.{number}": each for number, each in enumerate(value)}
        else:
            flat[str(name)] = value
    return flat


class _BadLineError(ValueError):
    """A line is no row; the message has its number and the reason."""


def _flatten(table: pd.DataFrame) -> pd.DataFrame:
    is_nested = any(isinstance(each, list | dict) for name in table for each in table[name].head(1))
    return pd.DataFrame([flatten_row(row) for row in table.to_dict("records")]) if is_nested else table


def _check_names(rows: Rows) -> Rows:
    names = rows.table.columns
    if (again := names[names.duplicated()]).size:
        raise ValueError(f"two columns have the name {again[0]!r}")
    return rows


def _open(path: Path) -> IO[bytes]:
    """The content of a file, decompressed."""
    with path.open("rb") as file:
        start = file.read(10)
    if start.startswith(ZIP):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise ValueError(f"the ZIP file holds {len(names)} files instead of one")
            return io.BytesIO(archive.read(names[0]))
    opened: IO[bytes] = next((opener for magic, opener in OPENERS.items() if start.startswith(magic)), open)(path, "rb")
    return opened


def _read_json_lines(path: Path, *, is_skipping: bool) -> Rows:
    rows, skipped = list[dict[str, Any]](), list[str]()
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip(b"\xef\xbb\xbf \t\r\n"):
                continue
            try:
                row = json.loads(line.decode(ENCODING))
                if not isinstance(row, dict):
                    raise ValueError(f"it is of the type {type(row).__name__}")
                if rb"\u" in line:
                    json.dumps(row, ensure_ascii=False).encode()  # half of a surrogate pair is no text
                rows.append(flatten_row(row))
            except (ValueError, RecursionError) as err:
                if not is_skipping:
                    reason = f"{err.msg} in column {err.colno}" if isinstance(err, json.JSONDecodeError) else str(err)
                    raise _BadLineError(f"line {number} is no JSON object ({reason})") from err
                skipped.append(f"line {number}")
    return Rows(pd.DataFrame(rows), tuple(skipped))


def _read_csv(path: Path, start: bytes, *, is_skipping: bool) -> Rows:
    separator, skipped = _guess_separator(start), list[str]()
    whole = io.StringIO()
    if is_skipping:
        csv.writer(whole, delimiter=separator).writerows(_whole_rows(path, separator, skipped))
        whole.seek(0)
    with warnings.catch_warnings(), whole if is_skipping else _open(path) as source:
        warnings.simplefilter("error", pd.errors.ParserWarning)  # of a row with more cells than there are names
        table = pd.read_csv(source, sep=separator, encoding=ENCODING, skipinitialspace=True, index_col=False)
    table.columns = [str(name).strip() for name in table.columns]
    return Rows(table, tuple(skipped))


def _whole_rows(path: Path, separator: str, skipped: list[str]) -> Iterator[list[str]]:
    """The rows that have no more cells than the first, in UTF-8; adds the lines of others to ``skipped``."""
    csv.field_size_limit(sys.maxsize)  # else 131,072 letters
    with io.TextIOWrapper(_open(path), encoding=ENCODING, errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=separator, skipinitialspace=True)
        width = None
        for row in reader:
            width = len(row) if width is None else width
            is_text = all(cell.isascii() or not any("\udc80" <= sign <= "\udcff" for sign in cell) for cell in row)
            if len(row) <= width and is_text:
                yield row
            else:
                skipped.append(f"line {reader.line_num}")


def _guess_separator(start: bytes) -> str:
    """The separator of a text, by its first line; a comma if it has one column."""
    first = start.decode("utf-8", errors="ignore").partition("\n")[0]
    try:
        return csv.Sniffer().sniff(first, SEPARATORS).delimiter
    except csv.Error:
        return ","
