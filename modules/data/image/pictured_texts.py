"""Texts of another data set as pictures, to read them or to translate them from the picture."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence, Sized
from functools import cached_property
from typing import Any, Final, Literal

import torch
from torch import Generator, Tensor

from modules.data.base import (
    END,
    IGNORED,
    PADDING,
    START,
    UNKNOWN,
    Batch,
    Data,
    DataError,
    HasReferences,
    Pair,
    SavesReader,
    Split,
    Tensors,
)
from modules.data.image.drawn_lines import STEP, DrawnLines
from modules.data.image.user_images import open_photo
from modules.data.sampling.by_length import order_by_length
from modules.data.sampling.example_random import ExampleRandom, example_seeds
from modules.data.tensors import check_at_least, check_split
from modules.data.text.pair_split import pad_texts, shift_right

_SPLITS = ("train", "val", "test")
_FIRST_CHARACTER = UNKNOWN + 1


class PicturedTexts:
    """The sources of a data set of translations, drawn on photos.

    Inputs of a model: pictures from -1 to 1, float [batch, 1, height, width]; the width of each in pixels, int64 [batch], behind
    which a picture is 0; and the target tokens shifted by one. Training pictures differ in every epoch, those of the other splits
    are fixed.
    """

    is_component = True

    takes: Final = "image"

    def __init__(
        self,
        texts: Data,
        photos: Data | None,
        write: Literal["source", "target"],
        units: Literal["lines", "words"],
        height: int,
        max_width: int,
        font_sizes: Sequence[int],
        max_characters: int,
        num_characters: int,
        max_target_tokens: int,
    ) -> None:
        """
        Args:
            texts: pairs of texts, such as translations; its splits are those of the pictures.
            photos: images for the background; null: one shade.
            write: "source" to read the text, with a token for each character; "target" to translate it, with the tokens of
                ``texts``.
            units: "lines": a picture of each source; "words": of each word of the sources. A word is in one split only.
            height: of a picture in pixels.
            max_width: pixels; longer lines are squeezed into it.
            font_sizes: heights of the letters in pixels.
            max_characters: longer sources are left out of all splits.
            num_characters: size of the vocabulary of characters, with four special tokens. More characters than fit are read as
                one unknown character, the rarest first.
            max_target_tokens: tokens of the longest target, without its end, for the plan.
        """
        check_at_least("PicturedTexts", 1, max_characters=max_characters, max_target_tokens=max_target_tokens)
        check_at_least("PicturedTexts", _FIRST_CHARACTER + 1, num_characters=num_characters)
        if height < 8 or max_width < STEP or max_width % STEP:
            raise ValueError(
                f"PicturedTexts wants a height of at least 8 and a max_width that is a multiple of {STEP}, but got {height} and "
                f"{max_width}; set data.height=24 data.max_width=320"
            )
        if not font_sizes or min(font_sizes) < 6 or max(font_sizes) > height:
            raise ValueError(
                f"PicturedTexts wants font_sizes from 6 to the height, {height}, but got {list(font_sizes)}; set "
                f"data.font_sizes=[{max(6, height // 2)}]"
            )
        if units == "words" and write == "target":
            raise ValueError("data.units='words' has no translations; set data.write=source, or data.units=lines")
        if not isinstance(texts, HasReferences):
            raise ValueError(
                f"data.texts={type(texts).__name__} has no pairs of texts; name data of translations, such as tatoeba"
            )
        self.texts, self.photos, self.write, self.units = texts, photos, write, units
        self.lines = DrawnLines(height, max_width, tuple(font_sizes))
        self.max_characters, self.num_characters, self.max_target_tokens = (
            max_characters,
            num_characters,
            max_target_tokens,
        )
        self._splits: dict[str, tuple[Split, list[int]]] = {}
        self._entries: dict[str, list[tuple[str, int]]] = {}

    def load(self, split: str) -> _PictureSplit:
        check_split("PicturedTexts", split)
        if not (entries := self._list(split)):
            raise DataError(
                f"data.max_characters={self.max_characters}: the split '{split}' of data.texts has no text that is short enough; "
                "set a larger number"
            )
        photos = None if self.photos is None else self.photos.load("train" if split == "train" else "test")
        return _PictureSplit(self, split, entries, photos)

    def example(self, batch_size: int) -> Batch:
        """Return empty pictures and targets, each of the maximum size."""
        size = self.max_target_tokens if self.write == "target" else self.max_characters
        target = torch.full((batch_size, size + 1), END)
        pictures = torch.zeros(batch_size, 1, self.lines.height, self.lines.max_width)
        widths = torch.full((batch_size,), self.lines.max_width)
        return (pictures, widths, shift_right(target)), (target, torch.zeros(batch_size, dtype=torch.int64))

    def pair(self, number: int) -> Pair:
        index, split = divmod(number, len(_SPLITS))
        text, place = self._list(_SPLITS[split])[index]
        references: tuple[str, ...] = (text,)
        if self.write == "target":
            references = self.texts.pair(self._inner(_SPLITS[split])[1][place]).references
        return Pair(_SPLITS[split], index, text, references)

    def target_text(self, words: Tensor) -> str:
        return self.texts.target_text(words) if self.write == "target" else self.character_text(words)

    def character_text(self, tokens: Tensor) -> str:
        """Return the text of tokens of characters, int64 [time], up to the first `END`."""
        numbers = tokens.tolist()
        numbers = numbers[: numbers.index(END)] if END in numbers else numbers
        known = {UNKNOWN: "?"} | {_FIRST_CHARACTER + place: each for place, each in enumerate(self.characters)}
        return "".join(known.get(number, "") for number in numbers)

    def encode_text(self, text: str) -> list[int]:
        """Return a token for each character, without `END`."""
        places = {each: _FIRST_CHARACTER + place for place, each in enumerate(self.characters)}
        return [places.get(each, UNKNOWN) for each in text]

    def read(self, inputs: Sequence[str]) -> Tensors:
        """Read pictures with one line of text each; returns pictures, widths and `START`."""
        lines = [torch.from_numpy(self.lines.fit(open_photo(path, "L"))) for path in inputs]
        widths = torch.tensor([line.shape[1] for line in lines])
        pictures = torch.zeros(len(lines), 1, self.lines.height, int(widths.max()))
        for picture, line in zip(pictures, lines, strict=True):
            picture[0, :, : line.shape[1]] = line
        return pictures, widths, torch.full((len(lines), 1), START)

    @cached_property
    def characters(self) -> list[str]:
        """The characters that have tokens, those of the training texts; reads the files at the first use.

        Raises:
            DataError: as `load`.
        """
        counts = Counter(character for text in dict(self._list("train")) for character in text)
        return sorted(character for character, _ in counts.most_common(self.num_characters - _FIRST_CHARACTER))

    def save_reader(self) -> Any:
        inner = self.texts.save_reader() if isinstance(self.texts, SavesReader) else None
        return {"characters": self.characters, "texts": inner}

    def restore_reader(self, saved: Any) -> None:
        self.characters = list(saved["characters"])
        if isinstance(self.texts, SavesReader):
            self.texts.restore_reader(saved["texts"])

    def fetch_targets(self, split: str, places: Sequence[int], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the target tokens shifted by one, and the tokens or `IGNORED`, int64 [batch, time] each.

        Args:
            split: of ``texts``.
            places: of the examples in the split of ``texts``.
            texts: that the pictures show.
        """
        if self.write == "source":
            target = pad_texts([self.encode_text(text) for text in texts]).long()
            return shift_right(target), target.masked_fill(target == PADDING, IGNORED)
        index = torch.tensor(places)
        inputs, targets = self._inner(split)[0].batch(index, torch.zeros_like(index))
        assert not isinstance(inputs, Tensor), "data with references have at least two inputs"
        assert not isinstance(targets, Tensor), "and two targets"
        return inputs[-1], targets[0]

    def _inner(self, split: str) -> tuple[Split, list[int]]:
        """A split of ``texts``, and the pair number of each of its examples."""
        if split not in self._splits:
            loaded = self.texts.load(split)
            if not isinstance(loaded, Sized):
                raise DataError(
                    f"data.texts={type(self.texts).__name__} has no end; name data with a fixed number of texts"
                )
            numbers = list[int]()
            for part in torch.split(torch.arange(len(loaded)), 1000):
                numbers += loaded.batch(part, torch.zeros_like(part))[1][1].tolist()
            self._splits[split] = loaded, numbers
        return self._splits[split]

    def _list(self, split: str) -> list[tuple[str, int]]:
        """The texts of a split that are short enough, each with its place in the split of ``texts``, or -1."""
        if split not in self._entries:
            sources = ((self.texts.pair(number).source, place) for place, number in enumerate(self._inner(split)[1]))
            if self.units == "words":
                every = sorted({word for each in _SPLITS for word in self._words(each)})
                entries = [(word, -1) for word in every if _deal(word) == split]
            elif self.write == "source":
                entries = [(text, -1) for text in dict(sources)]
            else:
                entries = [*sources]
            self._entries[split] = [entry for entry in entries if 0 < len(entry[0]) <= self.max_characters]
        return self._entries[split]

    def _words(self, split: str) -> Iterator[str]:
        for number in self._inner(split)[1]:
            yield from self.texts.pair(number).source.split()


class _PictureSplit:
    """Texts of a split, drawn when they are fetched; batches of training have texts of similar length."""

    in_memory = False

    def __init__(self, data: PicturedTexts, split: str, entries: list[tuple[str, int]], photos: Any) -> None:
        self.data, self.split, self.entries, self.photos = data, split, entries, photos
        self.lengths = torch.tensor([len(text) for text, _ in entries])
        self.fixed_seeds = None if split == "train" else example_seeds(zlib.crc32(split.encode()), 0, len(entries))

    def __len__(self) -> int:
        return len(self.entries)

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        random = ExampleRandom(seeds if self.fixed_seeds is None else self.fixed_seeds[indices])
        chosen = [self.entries[index] for index in indices.tolist()]
        texts, places = [text for text, _ in chosen], [place for _, place in chosen]
        photos = None
        if self.photos is not None:
            photos = self.photos.batch(random.integers(len(self.photos)), random.seeds)[0]
        pictures, widths = self.data.lines.draw(texts, photos, random)
        shifted, target = self.data.fetch_targets(self.split, places, texts)
        return (pictures, widths, shifted), (target, indices * len(_SPLITS) + _SPLITS.index(self.split))

    def order(self, batch_size: int, generator: Generator) -> Tensor:
        """As `Ordered`."""
        return order_by_length(self.lengths, batch_size, generator)


def _deal(word: str) -> str:
    """The split of a word: a tenth of all words are for validation, and a tenth for the test."""
    return {0: "val", 1: "test"}.get(zlib.crc32(word.encode()) % 10, "train")
