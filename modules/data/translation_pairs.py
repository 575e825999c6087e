"""Sentences and their translations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Literal

import torch
from torch import Tensor

from modules.data.base import END, START, Batch, DataError, Pair, Tensors, UserInputError
from modules.data.files import DataFiles
from modules.data.tensors import check_at_least, check_split
from modules.data.text.pair_files import Examples, Row, read_aligned, read_table, split_rows
from modules.data.text.pair_split import PairSplit, pad_texts, shift_right
from modules.data.text.sentence_words import SPECIAL, SentencePieces, Sentences, SentenceWords, normalise

_SPLITS = ("train", "val", "test")


class TranslationPairs:
    """Texts in two languages, from line-aligned files (Multi30k, Europarl, WMT) or from a table (Tatoeba).

    Source and target are any two of the languages. The vocabularies are those of the training split.
    """

    is_component = True

    takes: Final = "text"

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
            normalise: convert to lower case, with spaces around punctuation; false if the files are already like this.
            tokens: "words" between spaces; or "byte_pairs", learnt from the training split.
            source_vocab_size: maximum number of words, or the number of byte pairs; includes four special tokens.
            target_vocab_size: the same for the target.
            min_count: words that occur less often become ``<unk>``.
            max_source_tokens: the longest source to train on, without its end token.
            max_target_tokens: the longest target to train on.
            short_only: leave longer pairs out of validation and test too.
            num_train: the first pairs, to train on; null: all.
        """
        check_at_least(
            "data", len(SPECIAL) + 1, source_vocab_size=source_vocab_size, target_vocab_size=target_vocab_size
        )
        check_at_least(
            "data", 1, min_count=min_count, max_source_tokens=max_source_tokens, max_target_tokens=max_target_tokens,
            num_train=1 if num_train is None else num_train,
        )  # fmt: skip
        if source == target:
            raise ValueError(f"data.source and data.target are both {source!r}; name two languages")
        self.files = DataFiles(root, folder, files)
        self.source, self.target = source, target
        self.lines, self.table = lines, table
        if (lines is None) == (table is None):
            raise ValueError("data wants either data.lines or data.table; set the other to null")
        if lines is not None:
            self.names = {split: self._aligned_names(lines, split) for split in _SPLITS}
        else:
            self.columns = self._columns(languages, num_val, num_test)
        self.num_val, self.num_test = num_val or 0, num_test or 0
        self.normalise, self.tokens, self.min_count = normalise, tokens, min_count
        self.source_vocab_size, self.target_vocab_size = source_vocab_size, target_vocab_size
        self.max_source_tokens, self.max_target_tokens = max_source_tokens, max_target_tokens
        self.short_only, self.num_train = short_only, num_train
        self._aligned: dict[str, Examples] = {}

    def load(self, split: str) -> PairSplit:
        check_split("TranslationPairs", split)
        sources, targets, numbers = list[list[int]](), list[list[int]](), list[int]()
        reader, writer = self.readers
        for index, (source, references) in enumerate(self._examples(split)):
            read, written = reader.encode(source), writer.encode(references[0])
            if split == "train":
                if len(read) > self.max_source_tokens or len(written) > self.max_target_tokens:
                    continue
                if len(sources) == self.num_train:
                    break
            sources.append(read)
            targets.append(written)
            numbers.append(index * len(_SPLITS) + _SPLITS.index(split))
        wanted = self.num_train or 1 if split == "train" else 1
        if len(sources) < wanted:
            raise DataError(
                f"data.folder={self.files.folder!r}: the split '{split}' has {len(sources)} pairs that are short enough, but "
                f"needs {wanted}; raise data.max_source_tokens and data.max_target_tokens, or lower data.num_train"
            )
        return PairSplit(sources, targets, numbers)

    def example(self, batch_size: int) -> Batch:
        """Return a batch of the maximum length, in which every token is `END`."""
        source = torch.full((batch_size, self.max_source_tokens + 1), END)
        target = torch.full((batch_size, self.max_target_tokens + 1), END)
        return (source, shift_right(target)), (target, torch.zeros(batch_size, dtype=torch.int64))

    def pair(self, number: int) -> Pair:
        index, split = divmod(number, len(_SPLITS))
        source, references = self._examples(_SPLITS[split])[index]
        return Pair(_SPLITS[split], index, source, references)

    def read(self, inputs: Sequence[str]) -> Tensors:
        """Return the sources, int64 [texts, time], and `START`, int64 [texts, 1]."""
        if not all(text.strip() for text in inputs):
            raise UserInputError("an empty line cannot be translated; write a text with at least one word")
        reader, _ = self.readers
        texts = [reader.encode(reader.adapt(normalise(text) if self.normalise else text)) for text in inputs]
        return pad_texts(texts).long(), torch.full((len(texts), 1), START)

    def target_text(self, words: Tensor) -> str:
        numbers = words.tolist()
        return self.readers[1].decode(numbers[: numbers.index(END)] if END in numbers else numbers)

    @cached_property
    def readers(self) -> tuple[Sentences, Sentences]:
        """Convert between sentences and token ids, of source and target; reads the training split at the first use.

        Raises:
            DataError: as `load`.
        """
        train = self._examples("train")
        sources, targets = (source for source, _ in train), (references[0] for _, references in train)
        if self.tokens == "byte_pairs":
            return SentencePieces(sources, self.source_vocab_size), SentencePieces(targets, self.target_vocab_size)
        return (
            SentenceWords(sources, self.source_vocab_size, self.min_count),
            SentenceWords(targets, self.target_vocab_size, self.min_count),
        )

    def save_reader(self) -> Any:
        return [reader.save() for reader in self.readers]

    def restore_reader(self, saved: Any) -> None:
        kind = SentencePieces if self.tokens == "byte_pairs" else SentenceWords
        source, target = (kind.restore(each) for each in saved)
        self.readers = source, target

    def _examples(self, split: str) -> Examples:
        """Return all pairs of a split, in the order of the files, or in the random order of a divided table."""
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
        if set(lines) != set(_SPLITS):
            raise ValueError(
                f"data.lines wants the names of {', '.join(_SPLITS)}, but has {', '.join(lines) or 'none'}"
            )
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
