"""Photos with captions: JSON lines beside a NumPy archive of JPEG or PNG files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from PIL import Image

from modules.data.base import DataError
from modules.data.files import DataFiles
from modules.data.image.encoded_images import decode_all
from modules.data.image.user_images import fit
from modules.data.tensors import check_at_least
from modules.data.text.sentence_words import normalise

SPLITS: Final = ("train", "val", "test")
_TEXT_ENDINGS: Final = (".jsonl", ".jsonl.gz")


@dataclass(frozen=True)
class CaptionedPhoto:
    """What a line says about a photo."""

    number: int
    """In the archive."""
    name: str
    split: str
    label: str | None
    """Its class."""
    captions: tuple[str, ...]
    """In lower case, with spaces around punctuation; at least one."""


class PhotoFiles:
    """Reads the lines and the photos, each once.

    A line is an object with ``image``, the number of the photo in the archive, and ``captions``, a list of texts; it may have
    ``file``, a name, ``cls``, a class, and ``split``. The archive has ``jpeg``, the concatenated files, and ``offsets``, their
    start offsets and the end of the last one. A split that no line names is dealt out of the training split.
    """

    def __init__(
        self,
        root: str,
        folder: str,
        files: Mapping[str, str | None],
        num_train: int | None,
        num_val: int,
        num_test: int,
        shuffle_seed: int,
    ) -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: folder of this data set.
            files: name to sha256 of the lines, in ``.jsonl`` or ``.jsonl.gz``, and of the archive, in ``.npz``.
            num_train: the first photos of the training split, to train on; None: all.
            num_val: photos to validate on, if no line has the split "val".
            num_test: photos to test on, if no line has the split "test".
            shuffle_seed: of the order in which photos are dealt out.
        """
        lines = [name for name in files if name.endswith(_TEXT_ENDINGS)]
        archives = [name for name in files if name.endswith(".npz")]
        if len(files) != 2 or len(lines) != 1 or len(archives) != 1:
            raise ValueError(
                f"data.files wants the captions, in .jsonl or .jsonl.gz, and the photos, in .npz, but got {sorted(files)}; "
                "name one of each"
            )
        check_at_least("data", 1, num_train=1 if num_train is None else num_train, num_val=num_val, num_test=num_test)
        self.files, self.lines, self.archive = DataFiles(root, folder, files), lines[0], archives[0]
        self.num_train, self.num_val, self.num_test, self.shuffle_seed = num_train, num_val, num_test, shuffle_seed
        self._splits: dict[str, list[CaptionedPhoto]] | None = None
        self._pixels: np.ndarray | None = None

    def split(self, name: str) -> list[CaptionedPhoto]:
        """The photos of a split, in the order of the lines.

        Raises:
            DataError: a file is missing or damaged, or the split has too few photos.
        """
        if self._splits is None:
            self._splits = self._deal(self._read_lines())
        photos = self._splits[name]
        wanted = self.num_train or 1 if name == "train" else 1
        if len(photos) < wanted:
            key = "num_train" if name == "train" else f"num_{name}"
            raise DataError(
                f"data.folder={self.files.folder!r}: the split '{name}' has {len(photos)} photos, but needs {wanted}; change "
                f"data.{key}, or choose another set"
            )
        return photos[: self.num_train] if name == "train" else photos

    def pixels(self, name: str, size: int) -> np.ndarray:
        """Resize the photos of a split and crop their centre to squares, uint8 [photos, size, size, 3].

        Raises:
            DataError: as `split`.
        """
        photos = self.split(name)
        if self._pixels is None or self._pixels.shape[1] != size:
            self._pixels = self._read_archive(size)
        chosen = [photo.number for photo in photos]
        if max(chosen) >= len(self._pixels):
            raise DataError(
                f"data.folder={self.files.folder!r}: {self.lines} names the photo {max(chosen)}, but {self.archive} has "
                f"{len(self._pixels)}, numbered from 0; choose files that belong together"
            )
        return np.asarray(self._pixels[chosen])

    def _read_archive(self, size: int) -> np.ndarray:
        members = self.files.read_npz(self.archive)
        with self.files.decoding(self.archive):
            photos = [
                np.asarray(fit(Image.fromarray(pixels), size, size))
                for pixels in decode_all(members, ("jpeg", "offsets"), "RGB")
            ]
            if not photos:
                raise ValueError("it has no photo")
            return np.stack(photos)

    def _read_lines(self) -> list[CaptionedPhoto]:
        text = self.files.read_text(self.lines)
        with self.files.decoding(self.lines):
            photos = [_parse(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
            if len({photo.number for photo in photos}) < len(photos):
                raise ValueError("two lines have the same image; give each photo one line with all its captions")
            return photos

    def _deal(self, photos: list[CaptionedPhoto]) -> dict[str, list[CaptionedPhoto]]:
        splits = {split: [photo for photo in photos if photo.split == split] for split in SPLITS}
        for split, count in (("val", self.num_val), ("test", self.num_test)):
            if splits[split]:
                continue
            train = splits["train"]
            if len(train) <= count:
                raise DataError(
                    f"data.folder={self.files.folder!r}: no line of {self.lines} has the split '{split}', and "
                    f"data.num_{split}={count} photos cannot be dealt out of {len(train)}; set data.num_{split} to a lower number"
                )
            # NumPy keeps RandomState's sequence stable.
            chosen = set(np.random.RandomState(self.shuffle_seed).permutation(len(train))[:count].tolist())
            splits[split] = [replace(photo, split=split) for row, photo in enumerate(train) if row in chosen]
            splits["train"] = [photo for row, photo in enumerate(train) if row not in chosen]
        return splits


def _parse(number: int, line: str) -> CaptionedPhoto:
    """
    Raises:
        ValueError: the line is not as `PhotoFiles` says.
    """
    try:
        row: Any = json.loads(line)
    except ValueError as err:
        raise ValueError(f"line {number} is not JSON: {err}") from err
    if not isinstance(row, dict):
        raise ValueError(f"line {number} is not an object with image and captions")
    image, captions, split, label = row.get("image"), row.get("captions"), row.get("split", "train"), row.get("cls")
    if not isinstance(image, int) or isinstance(image, bool) or image < 0:
        raise ValueError(
            f"line {number} has image={image!r}, which must be the number of a photo in the archive, from 0"
        )
    listed: list[Any] = captions if isinstance(captions, list) else []
    texts = [normalise(text) for text in listed if isinstance(text, str)]
    if not texts or not all(texts) or len(texts) != len(listed):
        raise ValueError(
            f"line {number} has captions={captions!r}, which must be a list of one or more texts with words"
        )
    if split not in SPLITS:
        raise ValueError(f"line {number} has split={split!r}, which must be one of {', '.join(SPLITS)}")
    if label is not None and (not isinstance(label, str) or not label.strip()):
        raise ValueError(f"line {number} has cls={label!r}, which must be a text")
    name = row.get("file")
    return CaptionedPhoto(image, name if isinstance(name, str) else str(image), split, label, tuple(texts))
