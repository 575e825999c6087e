"""Your own table with one example per row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from modules.data.base import Batch, DataError, UserInputError
from modules.data.own.columns import (
    SPLITS,
    as_numbers,
    count_features,
    read_table,
    split_words,
    take_part,
    to_numbers,
    to_text,
)
from modules.data.own.folds import check_fold
from modules.data.own.skipping import OnBadExample, check_on_bad_example, warn_skipped
from modules.data.own.table_files import flatten_row, hash_table, read_rows
from modules.data.tensors import TensorSplit, check_at_least, check_split

FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
MAX_NAMED: Final = 8
"""Missing columns that a message names."""


class DataTable:
    """A table in a file of CSV or JSON lines, or in a folder that `datasets` of Hugging Face saved; see `read_rows`.

    A column of numbers becomes one input: the number minus the mean of the training rows, divided by their deviation; 0 where
    it is missing. If training rows lack it, a second input says so with 1. A column of texts becomes one input for each
    category, 1 for the text of the row; all are 0 for a text that training rows do not have. A column of
    prose becomes one input for each word: the logarithm of 1 plus its number in the row. The configuration keeps means,
    deviations, categories and classes, so a model sees the same inputs everywhere.
    """

    is_component = True
    auto_values = "modules.data.own.columns.find_auto_values"
    encoding: ClassVar[tuple[str, ...]] = (
        "columns",
        "kind",
        "classes",
        "num_features",
        "num_classes",
        "target_mean",
        "target_std",
    )
    takes: Final = "row"

    def __init__(
        self,
        root: str,
        path: str,
        target: str,
        files: Mapping[str, str | None],
        columns: Mapping[str, Mapping[str, Any]],
        kind: Literal["classification", "regression"],
        classes: Sequence[str],
        num_features: int,
        num_classes: int,
        num_train: int,
        target_mean: float = 0.0,
        target_std: float = 1.0,
        val_path: str | None = None,
        test_path: str | None = None,
        held_out_share: float = 0.1,
        ignore: Sequence[str] = (),
        max_categories: int = 50,
        fold: int | None = None,
        num_folds: int = 5,
        max_words: int = 1000,
        on_bad_example: OnBadExample = "error",
    ) -> None:
        """
        Args:
            root: the folder of all data sets; with `auto` values also the current folder, if only that has the file.
            path: of the file with the training rows, below root.
            target: name of the column to predict. Rows without it are left out.
            files: sha256 of each file, by its path; None: not checked.
            columns: ``{mean, std}`` of each column of numbers, with ``may_be_missing: true`` if training rows lack it;
                ``{categories}`` of each column of texts; ``{words}`` of each column of prose. Other columns are left out.
            kind: what is predicted: classes, or a number.
            classes: names of the classes, in the order of their numbers; empty for a regression.
            num_features: inputs of the model.
            num_classes: outputs of the model; 1 for a regression.
            num_train: training rows.
            target_mean: subtracted from the numbers to predict; the model learns ``(target - mean) / std``.
            target_std: their divisor.
            val_path: a file with the rows to validate on; None: a part of the training file.
            test_path: the same for the test.
            held_out_share: of the rows of the training file, for validation and test each, if they have no file.
            ignore: columns that `columns: auto` leaves out.
            max_categories: the most frequent texts of a column that become inputs, with `columns: auto`.
            fold: for cross-validation, which part of the rows besides the test's validates, from 0; None: none.
            num_folds: number of these parts.
            max_words: the most frequent words of a column of prose that become inputs, with `columns: auto`.
            on_bad_example: "skip": leave out lines that are no rows; "error": refuse the file.
        """
        check_fold("DataTable", fold, num_folds)
        check_at_least(
            "DataTable", 1, num_features=num_features, num_classes=num_classes, max_categories=max_categories
        )
        check_at_least("DataTable", 0, max_words=max_words)
        check_on_bad_example("DataTable", on_bad_example)
        if not 0 < held_out_share < 0.5:
            raise ValueError(f"DataTable wants held_out_share between 0 and 0.5, but got {held_out_share}")
        if not target_std > 0:
            raise ValueError(f"DataTable wants target_std above 0, but got {target_std}")
        width = sum(count_features(column) for column in columns.values())
        if num_features != width:
            raise ValueError(
                f"data.num_features={num_features}, but data.columns describe {width} inputs; set data.num_features={width}"
            )
        outputs = len(classes) if kind == "classification" else 1
        if num_classes != outputs:
            raise ValueError(f"data.num_classes={num_classes}, but this {kind} has {outputs} outputs; set {outputs}")
        self.root, self.files = Path(root).expanduser().absolute(), dict(files)
        self.paths = {"train": path, "val": val_path, "test": test_path}
        self.target, self.columns, self.kind, self.classes = target, columns, kind, list(classes)
        if self.classes:
            self.class_names = self.classes
        self.num_features, self.num_train = num_features, num_train
        self.target_mean, self.target_std = target_mean, target_std
        self.held_out_share, self.fold, self.num_folds = held_out_share, fold, num_folds
        self.on_bad_example = on_bad_example

    def load(self, split: str) -> TensorSplit:
        check_split("DataTable", split)
        name = self.paths[split] or str(self.paths["train"])
        table = self._read(name, split)
        try:
            if name == self.paths["train"]:
                own = [each for each in SPLITS[1:] if self.paths[each] is not None]
                part = take_part(len(table), split, own, self.held_out_share, self.fold, self.num_folds)
                table = table.iloc[part]
            if split == "train" and len(table) != self.num_train:
                raise ValueError(
                    f"it has {len(table)} training rows, but data.num_train={self.num_train}; set data.num_train={len(table)}"
                )
            return self.make_split(table)
        except ValueError as err:
            raise DataError(f"data.path={name!r}: {err}") from err

    def find_faults(self) -> list[str]:
        faults = list[str]()
        for path in [self.root / name for name in self.paths.values() if name is not None]:
            with suppress(ValueError):  # `load` reports a whole file that cannot be read
                faults += [f"{path}, {line} is no row" for line in read_rows(path, "skip").skipped]
        return faults

    def find_odd_files(self) -> list[str]:
        return []

    def make_split(self, table: pd.DataFrame) -> TensorSplit:
        """Make the examples of rows; raises a `ValueError` if a column is missing or a value cannot be read."""
        return TensorSplit(self.encode(table), self.encode_targets(table[self.target]))

    def read(self, inputs: Sequence[str]) -> Tensor:
        """Read rows of a user, each a JSON object with a value for each column; null where it is missing.

        Returns:
            The inputs of the model, float [rows, num_features].

        Raises:
            UserInputError: a row has not these columns, or no number where there must be one.
        """
        rows = []
        for text in inputs:
            try:
                row = json.loads(text)
                row = flatten_row(row) if isinstance(row, dict) else None
            except (ValueError, RecursionError):
                row = None
            if row is None:
                raise UserInputError(
                    f"{text[:60]!r} is no row; write a JSON object such as {{{self._example_cell()}: ...}}"
                )
            if missing := [name for name in self.columns if name not in row]:
                more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
                raise UserInputError(
                    f"the row {text[:60]} has no column {', '.join(map(repr, missing[:MAX_NAMED]))}{more}; add "
                    f"{'it, or null if it is' if len(missing) == 1 else 'them, or null for what is'} not known"
                )
            rows.append({name: row[name] for name in self.columns})
        try:
            return self.encode(pd.DataFrame(rows))
        except ValueError as err:
            raise UserInputError(str(err)) from err

    def _example_cell(self) -> str:
        return json.dumps(next(iter(self.columns)))

    def example(self, batch_size: int) -> Batch:
        targets = (
            torch.zeros(batch_size, dtype=torch.int64) if self.kind == "classification" else torch.zeros(batch_size, 1)
        )
        return torch.zeros(batch_size, self.num_features), targets

    def encode(self, table: pd.DataFrame) -> Tensor:
        """Return the inputs of the model for rows, float [rows, num_features].

        Raises:
            ValueError: a column is missing, or a number cannot be read.
        """
        return torch.from_numpy(
            np.concatenate([_encode(name, table, column) for name, column in self.columns.items()], axis=1)
        )

    def _read(self, name: str, split: str) -> pd.DataFrame:
        path = self.root / name
        try:
            wanted, found = self.files.get(name), hash_table(path)
            if wanted is not None and wanted != found:
                raise ValueError(
                    f"{path} has the sha256 {found}, but data.files says {wanted}; the file has changed: restore it, or start "
                    "a new run with `lathe run`"
                )
            rows = read_table(path, self.target, self.on_bad_example)
        except ValueError as err:
            raise DataError(str(err)) from err
        if rows.skipped and (split == "train" or name != self.paths["train"]):
            warn_skipped(rows.skipped, f"rows of {path}")
        return rows.table

    def encode_targets(self, column: pd.Series) -> Tensor:
        """Class numbers, int64 [rows]; or scaled numbers, float [rows, 1]."""
        if self.kind == "regression":
            numbers = to_numbers(column, f"data.target={self.target!r}")
            return torch.from_numpy((numbers - self.target_mean) / self.target_std).float()[:, None]
        numbers_of = {name: number for number, name in enumerate(self.classes)}
        names = [to_text(value) for value in column]
        if unknown := sorted(set(names) - numbers_of.keys()):
            raise ValueError(
                f"data.target={self.target!r} has the class {unknown[0]!r}, which data.classes does not have; add it there, or "
                "leave out these rows"
            )
        return torch.tensor([numbers_of[name] for name in names])


def _encode(name: str, table: pd.DataFrame, column: Mapping[str, Any]) -> np.ndarray:
    """The inputs for one column, float32 [rows, inputs]."""
    if name not in table.columns:
        raise ValueError(f"there is no column {name!r}, which the model was trained with; add it")
    values = table[name]
    if "categories" in column:
        texts = values.map(to_text).to_numpy(dtype=object)[:, None]
        return np.asarray(texts == np.array(column["categories"], dtype=object)[None]).astype(np.float32)
    if "words" in column:
        counts = [Counter(split_words(text)) for text in values.fillna("")]
        return np.log1p(np.array([[count[word] for word in column["words"]] for count in counts], np.float32))
    numbers = as_numbers(values)
    bad = np.isnan(numbers) & values.notna().to_numpy()
    if bad.any():
        raise ValueError(
            f"column {name!r} has the value {values[bad].iloc[0]!r} where training rows have numbers; correct it"
        )
    is_missing = ~np.isfinite(numbers)
    scaled = np.where(is_missing, 0.0, (numbers - column["mean"]) / column["std"])
    if (is_huge := np.abs(scaled) > FLOAT32_MAX).any():
        raise ValueError(
            f"column {name!r} has the number {numbers[is_huge][0]:g}, too large beside those of training rows; correct it"
        )
    both = [scaled, is_missing] if column.get("may_be_missing") else [scaled]
    return np.stack(both, axis=1).astype(np.float32)
