"""Your own text in the tokens of a pretrained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from modules.data.own.text import Text
from modules.data.text.library_tokenizer import LibraryTokenizer, read_tokenizer
from modules.data.text.token_windows import TokenWindows, stack_prompts


class PretrainedText(Text):
    """A text in UTF-8, named by its path, in the tokens of a folder's `tokenizer.json`; see `TextFile` for its parts."""

    is_component = True
    auto_values = "modules.data.own.tokens.tokenizer_file.find_auto_values"

    def __init__(
        self,
        root: str,
        path: str,
        files: Mapping[str, str | None],
        tokenizer: str,
        tokenizer_sha256: str,
        vocab_size: int,
        context_tokens: int,
        shift: bool = True,
    ) -> None:
        """
        Args:
            root: the folder of all data sets; with `auto` values also the current folder, if only that has the file.
            path: of the file below root; a name in ``.gz`` is decompressed.
            files: its sha256 by its path.
            tokenizer: a folder with `tokenizer.json`, as `save_pretrained` of transformers writes it.
            tokenizer_sha256: of that file.
            vocab_size: number of its tokens.
            context_tokens: tokens of an example.
            shift: shift the windows of training at random; False: always the same windows.
        """
        super().__init__(root, path, files, "byte_pairs", vocab_size, context_tokens, None, None, shift)
        self.tokenizer_folder, self.tokenizer_sha256 = tokenizer, tokenizer_sha256

    def load(self, split: str) -> TokenWindows:
        return self.sizes.cut(self.files.folder, split, self.tokenizer.encode(self._part(split)))

    def read(self, inputs: Sequence[str]) -> Tensor:
        """Return the tokens of texts with equally many tokens."""
        return stack_prompts(inputs, [self.tokenizer.encode(text) for text in inputs])

    @cached_property
    def tokenizer(self) -> LibraryTokenizer:  # type: ignore[override]  # no token kinds
        """Converts between text and tokens; reads the file at the first use.

        Raises:
            DataError: the file is missing, or is not the one that the experiment was composed with.
        """
        return read_tokenizer(self.tokenizer_folder, self.tokenizer_sha256)

    def save_reader(self) -> Any:
        return self.tokenizer.save()

    def restore_reader(self, saved: Any) -> None:
        self.tokenizer = LibraryTokenizer(saved)
