"""Your own text in the tokens of a pretrained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from modules.data.own.text import Text
from modules.data.text.library_tokenizer import UsesLibraryTokenizer
from modules.data.text.token_windows import TokenWindows, stack_prompts


class PretrainedText(UsesLibraryTokenizer, Text):  # type: ignore[misc]  # no token kinds
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
