"""Sentences and their translations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal

from modules.data.files import DataFiles
from modules.data.tensors import check_at_least
from modules.data.text.pair_files import Examples, Row, read_aligned, read_table, split_rows
from modules.data.text.paired_texts import SPLITS, PairedTexts
from modules.data.text.sentence_words import normalise


class TranslationPairs(PairedTexts):
    """Texts in two languages, from line-aligned files (Multi30k, Europarl, WMT) or from a table (Tatoeba).

    Source and target are any two of the languages. The vocabularies are those of the training split.
    """

    is_component = True

    def __init__(
        self,
        root: str,
        folder: str,
        files: Mapping[str, str | None],
        source: str,
        target: str,
        lines: Mapping[str, str] | None,
        table: str | None,
        languages: Sequence[str] | None,
        num_val: int | None,
        num_test: int | None,
        normalise: bool,
        tokens: Literal["words", "byte_pairs"],
        source_vocab_size: int,
        target_vocab_size: int,
        min_count: int,
        max_source_tokens: int,
        max_target_tokens: int,
        short_only: bool,
        num_train: int | None,
    ) -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: folder of this data set.
            files: name to sha256, text in UTF-8.
            source: the language to translate from, as named in ``lines`` or ``languages``.
            target: the language to translate to.
            lines: file names of the splits "train", "val" and "test", with ``*`` in place of the language; null: a table.
            table: name of the tab-separated file, or of the member of a zip archive; null: aligned files.
            languages: of the columns of the table.
            num_val: sources of the table to validate on.
            num_test: sources of the table to test on.
            normalise, tokens, source_vocab_size, target_vocab_size, min_count: as for `PairedTexts`.
            max_source_tokens, max_target_tokens, num_train: as for `PairedTexts`.
            short_only: leave longer pairs out of validation and test too.
        """
        super().__init__(
            DataFiles(root, folder, files), normalise, tokens, source_vocab_size, target_vocab_size, min_count,
            max_source_tokens, max_target_tokens, num_train,
        )  # fmt: skip
        if source == target:
            raise ValueError(f"data.source and data.target are both {source!r}; name two languages")
        self.source, self.target = source, target
        self.lines, self.table = lines, table
        if (lines is None) == (table is None):
            raise ValueError("data wants either data.lines or data.table; set the other to null")
        if lines is not None:
            self.names = {split: self._aligned_names(lines, split) for split in SPLITS}
        else:
            self.columns = self._columns(languages, num_val, num_test)
        self.num_val, self.num_test = num_val or 0, num_test or 0
        self.short_only = short_only
        self._aligned: dict[str, Examples] = {}

    def _examples(self, split: str) -> Examples:
        """In the order of the files, or in the random order of a divided table."""
        if self.table is not None:
            return self._table_splits[split]
        if split not in self._aligned:
            pairs = self._clean(read_aligned(self.files, *self.names[split]), self.short_only)
            self._aligned[split] = [(source, (target,)) for source, target in pairs]
        return self._aligned[split]

    @cached_property
    def _table_splits(self) -> dict[str, Examples]:
        (name,) = self.files.files
        member = self.table if name != self.table else None
        pairs = self._clean(read_table(self.files, name, member, self.columns), self.short_only)
        return split_rows(list(dict.fromkeys(pairs)), self.num_val, self.num_test)

    def _clean(self, pairs: list[Row], short_only: bool) -> list[Row]:
        """Normalise pairs, and drop those with an empty side or, with ``short_only``, a long one."""
        if self.normalise:
            pairs = [(normalise(source), normalise(target)) for source, target in pairs]
        return [
            (source, target)
            for source, target in pairs
            if source.strip() and target.strip()
            if not short_only
            or (len(source.split()) <= self.max_source_tokens and len(target.split()) <= self.max_target_tokens)
        ]

    def _aligned_names(self, lines: Mapping[str, str], split: str) -> tuple[str, str]:
        if set(lines) != set(SPLITS):
            raise ValueError(f"data.lines wants the names of {', '.join(SPLITS)}, but has {', '.join(lines) or 'none'}")
        names = [lines[split].replace("*", language) for language in (self.source, self.target)]
        for key, name in zip(("source", "target"), names, strict=True):
            if name not in self.files.files:
                raise ValueError(
                    f"data.{key}={getattr(self, key)!r} makes {name!r} from data.lines.{split}, but data.files has no such file; "
                    f"it has {', '.join(self.files.files)}"
                )
        return names[0], names[1]

    def _columns(self, languages: Sequence[str] | None, num_val: int | None, num_test: int | None) -> tuple[int, int]:
        if len(self.files.files) != 1:
            raise ValueError(f"data.table wants one file in data.files, but got {', '.join(self.files.files)}")
        check_at_least("data", 1, num_val=num_val or 0, num_test=num_test or 0)
        for key in ("source", "target"):
            if (name := getattr(self, key)) not in (languages or ()):
                raise ValueError(
                    f"data.{key}={name!r} is not a column of data.table; data.languages names {', '.join(languages or ['none'])}"
                )
        assert languages is not None
        return languages.index(self.source), languages.index(self.target)
