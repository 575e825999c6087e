"""Finds out what a table contains: the kinds of its columns, and the target. Imports no torch, see `locate`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from math import ceil, isfinite
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from modules.data.own.folds import find_fold
from modules.data.own.locate import find_root
from modules.data.own.saved_dataset import find_splits
from modules.data.own.table_files import Rows, hash_table, read_rows

DIGITS: Final = 6
"""Significant digits of means and deviations in a configuration."""
MOST_CLASSES: Final = 20
"""A target of more different whole numbers is a quantity, not a class; so is one that is different in most rows."""
SPLITS: Final = ("train", "val", "test")
LEAST_WORDS: Final = 3
"""A column of different texts with as many words on average is prose, and not a name."""
WORD: Final = re.compile(r"\w+")


def read_table(path: Path, target: str | None, on_bad_example: str = "error") -> Rows:
    """Read a table; rows without a target are left out.

    Args:
        path, on_bad_example: as for `read_rows`.
        target: name of a column; None for rows to predict.

    Raises:
        ValueError: the file cannot be read as a table, or has no such column or no row.
    """
    rows = read_rows(path, on_bad_example)
    table = rows.table
    if target is not None:
        if target not in table.columns and len(table.columns):
            raise ValueError(
                f"data.target={target!r}: {path} has no such column; {_did_you_mean(target, table.columns)}its columns are "
                f"{', '.join(map(repr, table.columns))}"
            )
        table = table[table[target].notna()] if target in table.columns else table
    if not len(table):
        raise ValueError(f"{path} has no row{'' if target is None else ' with a target'}; add rows below the names")
    return Rows(table.reset_index(drop=True), rows.skipped)


def _did_you_mean(name: str, columns: Iterable[str]) -> str:
    near = get_close_matches(name, map(str, columns), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def take_part(
    num_rows: int, split: str, own: Sequence[str], held_out_share: float, fold: int | None = None, num_folds: int = 5
) -> np.ndarray:
    """The rows of the training file that belong to a split, after a fixed shuffle.

    Args:
        num_rows: of the training file.
        split: "train", "val" or "test".
        own: the splits that have a file of their own, and take no rows.
        held_out_share: of the rows, for each of the others besides "train".
        fold: the part of the rows besides the test's that validates; None: ``held_out_share`` of them.
        num_folds: number of these parts.

    Returns:
        int64 [rows of the split], increasing.

    Raises:
        ValueError: a split would be empty.
    """
    order = np.random.RandomState(0).permutation(num_rows)
    size = ceil(num_rows * held_out_share)
    held_out = [name for name in SPLITS[1:] if name not in own]
    if size * len(held_out) >= num_rows:
        raise ValueError(f"its {num_rows} rows are too few for {', '.join(['train', *held_out])}; add rows")
    if fold is not None:
        if "val" in own:
            raise ValueError(
                f"data.fold={fold} takes validation rows from it, but data.val_path has some; set one to null"
            )
        test, rest = (
            (order[:0], order) if "test" in own else (order[size : 2 * size], np.delete(order, np.s_[size : 2 * size]))
        )
        part = find_fold(len(rest), fold, num_folds)
        return np.sort({"test": test, "val": rest[part], "train": np.delete(rest, part)}[split])
    if split in held_out:
        start = size * held_out.index(split)
        return np.sort(order[start : start + size])
    return np.sort(order[size * len(held_out) :])


def find_auto_values(data: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `DataTable` that its file determines.

    Raises:
        ValueError: the file is missing, is no table, or lacks the target.
    """
    root = find_root(data, "path")
    paths = {"train": str(data["path"]), **_find_paths(root, data)}
    files = [name for name in paths.values() if name is not None]
    sums = {name: hash_table(Path(root, name)) for name in files}
    table = read_table(Path(root, files[0]), str(data["target"]), str(data.get("on_bad_example", "error"))).table
    own = [split for split in SPLITS[1:] if paths[split] is not None]
    try:
        fold, num_folds = data.get("fold"), int(data.get("num_folds", 5))
        train = table.iloc[take_part(len(table), "train", own, float(data["held_out_share"]), fold, num_folds)]
    except ValueError as err:
        raise ValueError(f"data.path={files[0]!r}: {err}") from err
    columns = data["columns"]
    if columns == "auto":
        left_out = {str(data["target"]), *map(str, data["ignore"])}
        if unknown := sorted(left_out - set(table.columns)):
            fix = f"{_did_you_mean(unknown[0], table.columns)}remove it"
            raise ValueError(f"data.ignore contains {unknown[0]!r}, but {files[0]} has no such column; {fix}")
        described = {
            name: _describe(train[name], int(data["max_categories"]), int(data.get("max_words", 0)))
            for name in table.columns
            if name not in left_out
        }
        columns = {name: column for name, column in described.items() if column}
    if not columns:
        raise ValueError(f"data.path={files[0]!r} has no column besides the target that a model can use; add one")
    kind = data["kind"] if data["kind"] != "auto" else _kind_of(table[data["target"]])
    target = describe_target(table, train, str(data["target"]), str(kind))
    num_features = sum(count_features(column) for column in columns.values())
    return {
        "root": root, "files": sums, "columns": columns, "kind": kind, "num_features": num_features,
        "num_train": len(train), "val_path": paths["val"], "test_path": paths["test"], **target,
    }  # fmt: skip


def _find_paths(root: str, data: Mapping[str, Any]) -> dict[str, str | None]:
    """The files for validation and test; `auto` names the splits of a folder of `datasets`."""
    paths = {split: data[f"{split}_path"] for split in SPLITS[1:]}
    if "auto" not in paths.values():
        return paths
    try:
        found = find_splits(Path(root, str(data["path"])))
    except ValueError as err:
        raise ValueError(f"data.path={data['path']!r}: {err}") from err
    if data["fold"] is not None:
        found.pop("val", None)
    return {
        split: (f"{data['path']}/{found[split]}" if split in found else None) if path == "auto" else path
        for split, path in paths.items()
    }


def count_features(column: Mapping[str, Any]) -> int:
    """Inputs of the model for one column."""
    names = column.get("categories") or column.get("words")
    return len(names) if names else 1 + bool(column.get("may_be_missing"))


def split_words(text: Any) -> list[str]:
    """The words of a text, in lower case."""
    return WORD.findall(str(text).lower())


def _describe(column: pd.Series, max_categories: int, max_words: int) -> dict[str, Any] | None:
    """A column of the training rows: numbers with mean and deviation, or categories or words, the most frequent first.

    None for a column that cannot help: it is empty, most of its texts are different, like names, or it holds lists.
    """
    present = column.dropna()
    if present.empty or isinstance(present.iloc[0], list | dict | bytes):
        return None
    if pd.api.types.is_bool_dtype(present):
        present = present.astype(int)
    if pd.api.types.is_numeric_dtype(present):
        numbers = present.to_numpy(np.float64)
        finite = numbers[np.isfinite(numbers)]
        if not len(finite):
            return None
        with np.errstate(over="ignore"):
            mean, std = _round(float(finite.mean())), _round(float(finite.std()))
        is_missing = len(finite) < len(column)
        return {"mean": mean, "std": std or 1.0, **({"may_be_missing": True} if is_missing else {})}
    counts = present.map(to_text).value_counts()
    if len(counts) > len(present) / 2:
        return _describe_prose(present, max_words)
    names = sorted(counts.index, key=lambda name: (-counts[name], name))
    return {"categories": names[:max_categories]}


def _describe_prose(column: pd.Series, max_words: int) -> dict[str, Any] | None:
    """The words that most rows have; None for names, which have few words, and for words that are in one row each."""
    words = [set(split_words(text)) for text in column]
    rows = Counter(word for each in words for word in each)
    names = sorted((name for name in rows if rows[name] > 1), key=lambda name: (-rows[name], name))[:max_words]
    is_prose = sum(len(split_words(text)) for text in column) >= LEAST_WORDS * len(column)
    return {"words": names} if is_prose and names else None


def _kind_of(target: pd.Series) -> str:
    """Classification for texts, truth values and a few whole numbers; else regression."""
    if pd.api.types.is_bool_dtype(target) or not pd.api.types.is_numeric_dtype(target):
        return "classification"
    values = target.to_numpy(np.float64)
    is_whole = bool(np.isfinite(values).all() and (values == np.round(values)).all())
    few = min(MOST_CLASSES, len(values) / 2)
    return "classification" if is_whole and len(np.unique(values)) <= few else "regression"


def describe_target(table: pd.DataFrame, train: pd.DataFrame, name: str, kind: str) -> dict[str, Any]:
    """The classes of a classification; mean and deviation of a regression.

    Raises:
        ValueError: a target is no finite number, or there is one class only.
    """
    if kind == "classification":
        classes = sorted_classes(table[name])
        if len(classes) < 2:
            raise ValueError(f"data.target={name!r} has one class only, {classes[0]!r}; name another column")
        return {"classes": classes, "num_classes": len(classes), "target_mean": 0.0, "target_std": 1.0}
    numbers = to_numbers(train[name], f"data.target={name!r}")
    mean, std = _round(float(numbers.mean())), _round(float(numbers.std()))
    return {"classes": [], "num_classes": 1, "target_mean": mean, "target_std": std or 1.0}


def sorted_classes(target: pd.Series) -> list[str]:
    """The names of the classes: numbers by size, then texts by alphabet.

    Raises:
        ValueError: they are lists, for example.
    """
    try:
        values = sorted(target.unique(), key=lambda value: (isinstance(value, str), value))
    except TypeError as err:  # lists, or a number and a time
        raise ValueError(
            f"data.target={target.name!r} has values that are no classes ({err}); name another column"
        ) from err
    return list(dict.fromkeys(map(to_text, values)))


def to_text(value: Any) -> str:
    """A class as text: 1.0 and 1 are the same class, because a column with an empty cell is read as floats."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def as_numbers(column: pd.Series) -> np.ndarray:
    """The numbers of a column, float64 [rows]; true is 1 and false 0; nan for all that is no number."""
    if column.dtype != bool and not pd.api.types.is_numeric_dtype(column):
        column = column.map(lambda value: {"true": 1, "false": 0}.get(str(value).lower(), value))
    try:
        numbers = pd.to_numeric(column, errors="coerce")
    except OverflowError:  # a whole number of more than 308 digits
        numbers = pd.to_numeric(column.map(lambda value: str(value) + ".0" * isinstance(value, int)), errors="coerce")
    return np.asarray(numbers.to_numpy(np.float64))


def to_numbers(column: pd.Series, shown: str) -> np.ndarray:
    """
    Raises:
        ValueError: a value is no finite number.
    """
    numbers = as_numbers(column)
    if not np.isfinite(numbers).all():
        bad = column[~np.isfinite(numbers)].iloc[0]
        raise ValueError(
            f"{shown} has the value {bad!r}, which is not a finite number; correct it, or set data.kind=classification"
        )
    return numbers


def _round(number: float) -> float:
    return float(f"{number:.{DIGITS}g}") if isfinite(number) else 0.0
