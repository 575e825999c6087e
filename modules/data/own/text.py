"""Your own text, for a language model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Literal

from modules.data.text_file import TextFile


class Text(TextFile):
    """A text in UTF-8, named by its path; see `TextFile` for its parts and tokens."""

    is_component = True
    auto_values = "modules.data.own.characters.find_auto_values"

    def __init__(
        self,
        root: str,
        path: str,
        files: Mapping[str, str | None],
        tokens: Literal["characters", "byte_pairs"],
        vocab_size: int,
        context_tokens: int,
        num_train_tokens: int | None,
        num_train: int | None,
        shift: bool,
    ) -> None:
        """
        Args:
            root: the folder of all data sets; with `auto` values also the current folder, if only that has the file.
            path: of the file below root; a name in ``.gz`` is decompressed.
            files: its sha256 by its path.
            tokens, vocab_size, context_tokens, num_train_tokens, num_train, shift: as for `TextFile`.
        """
        if list(files) != [path]:
            raise ValueError(
                f"{type(self).__name__} wants the sha256 of {path!r} in data.files, but got {sorted(files)}; set data.files=auto"
            )
        file = PurePath(path)
        super().__init__(
            root, str(file.parent), {file.name: files[path]}, tokens, vocab_size, context_tokens, num_train_tokens,
            num_train, shift,
        )  # fmt: skip
