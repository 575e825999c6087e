"""Your own pairs of texts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import PurePath
from typing import Literal

from modules.data.base import DataError
from modules.data.own.skipping import OnBadExample, check_on_bad_example, warn_skipped
from modules.data.text.pair_files import Examples, split_rows
from modules.data.text.pair_rows import Pairs, read_pairs
from modules.data.translation_pairs import TranslationPairs


class TextPairs(TranslationPairs):
    """Two columns of a table, such as questions and answers: the model reads the first and writes the second."""

    is_component = True
    auto_values = "modules.data.text.pair_rows.find_auto_values"

    def __init__(
        self,
        root: str,
        path: str,
        files: Mapping[str, str | None],
        source: str,
        target: str,
        num_val: int,
        num_test: int,
        normalise: bool,
        tokens: Literal["words", "byte_pairs"],
        source_vocab_size: int,
        target_vocab_size: int,
        min_count: int,
        max_source_tokens: int,
        max_target_tokens: int,
        num_train: int | None = None,
        on_bad_example: OnBadExample = "error",
    ) -> None:
        """
        Args:
            root: the folder of all data sets; with `auto` values also the current folder, if only that has the file.
            path: of a table that `read_rows` reads, below root.
            files: its sha256 by its path.
            source: name of the column to read.
            target: name of the column to write.
            num_val, num_test: different sources to validate and to test on; pairs that share a text are in one split.
            normalise, tokens, source_vocab_size, target_vocab_size, min_count: as for `TranslationPairs`.
            max_source_tokens, max_target_tokens, num_train: as for `TranslationPairs`.
            on_bad_example: "skip": leave out lines that are no rows; "error": refuse the file.
        """
        check_on_bad_example("TextPairs", on_bad_example)
        if list(files) != [path]:
            raise ValueError(
                f"TextPairs wants the sha256 of {path!r} in data.files, but got {sorted(files)}; set data.files=auto"
            )
        if source == target:
            raise ValueError(f"data.source and data.target are both {source!r}; name two columns")
        file = PurePath(path)
        super().__init__(
            root, str(file.parent), {file.name: files[path]}, source, target, None, file.name, [source, target], num_val,
            num_test, normalise, tokens, source_vocab_size, target_vocab_size, min_count, max_source_tokens,
            max_target_tokens, False, num_train,
        )  # fmt: skip
        self.on_bad_example = on_bad_example

    def find_faults(self) -> list[str]:
        path = self.files.path / str(self.table)
        return [f"{path}, {line} is no row" for line in self._read("skip")[1]]

    def find_odd_files(self) -> list[str]:
        return []

    @cached_property
    def _table_splits(self) -> dict[str, Examples]:
        pairs, skipped = self._read(self.on_bad_example)
        if skipped:
            warn_skipped(skipped, f"lines of {self.files.path / str(self.table)}")
        return split_rows(list(dict.fromkeys(self._clean(pairs, short_only=False))), self.num_val, self.num_test)

    def _read(self, on_bad_example: OnBadExample) -> tuple[Pairs, tuple[str, ...]]:
        name = str(self.table)
        self.files.read(name)  # checks its sha256
        try:
            return read_pairs(self.files.path / name, self.source, self.target, on_bad_example)
        except ValueError as err:
            raise DataError(f"data.path: {err}") from err
