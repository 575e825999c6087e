"""Data of a language model: windows of a token stream; the target of a token is the next token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.data.base import Batch, DataError, UserInputError
from modules.data.sampling.example_random import ExampleRandom
from modules.data.tensors import check_at_least, check_split


class TokenWindows:
    """Adjacent windows of a stream; an incomplete window at the end is left out.

    Windows are independent: a model starts each without the state of the previous one.
    """

    in_memory = True

    def __init__(self, tokens: Tensor, context_tokens: int, shift: bool = False) -> None:
        """
        Args:
            tokens: int64 [tokens], the stream.
            context_tokens: tokens of a window.
            shift: shift every window by its own random number of tokens below ``context_tokens``, so that the windows
                differ between epochs.
        """
        if num_windows(len(tokens), context_tokens) < 1:
            raise ValueError(
                f"TokenWindows wants more tokens than context_tokens={context_tokens}, as the last one needs a target, "
                f"but got {len(tokens)}; lower context_tokens"
            )
        self.tokens = tokens
        self.context_tokens = context_tokens
        self.shift = shift

    def __len__(self) -> int:
        return num_windows(len(self.tokens), self.context_tokens)

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        """Inputs and targets, int64 [batch, context_tokens]; a target is the token after its input."""
        starts = indices * self.context_tokens
        if self.shift:
            starts = starts + ExampleRandom(seeds).integers(self.context_tokens)
        all_windows = self.tokens.unfold(0, self.context_tokens + 1, 1)  # a view: a window from every token on
        windows = all_windows.index_select(0, starts.clamp_max(len(all_windows) - 1) if self.shift else starts)
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


@dataclass(frozen=True)
class WindowSizes:
    """Sizes of the windows from the YAML; contradictions are reported before a file is read."""

    context_tokens: int
    num_train_tokens: int | None
    """The first tokens of the training part, to train on; None: all."""
    num_train: int | None
    """Number of windows in these tokens; None: count only steps."""
    shift: bool
    """Whether training shifts its windows at random, as `TokenWindows` does."""

    def __post_init__(self) -> None:
        check_at_least("data", 1, context_tokens=self.context_tokens)
        if self.num_train_tokens is None:
            if self.num_train is not None:
                raise ValueError(
                    f"data.num_train={self.num_train} needs data.num_train_tokens, as the windows are counted by it; "
                    "give it, or set data.num_train=null and count by max_steps"
                )
            return
        counted = num_windows(self.num_train_tokens, self.context_tokens)
        if counted < 1:
            raise ValueError(
                f"data.num_train_tokens={self.num_train_tokens} is less than a window of "
                f"data.context_tokens={self.context_tokens} and the token after it; raise the one or lower the other"
            )
        if self.num_train not in (None, counted):
            raise ValueError(
                f"data.num_train={self.num_train} is not the number of windows of "
                f"data.context_tokens={self.context_tokens} in data.num_train_tokens={self.num_train_tokens}; "
                f"set data.num_train={counted}, or null to count by max_steps"
            )

    def cut(self, folder: str, split: str, tokens: Tensor, is_exact: bool = False) -> TokenWindows:
        """Cut a split into windows.

        Args:
            folder: of the data set, for messages.
            split: "train", "val" or "test".
            tokens: int64 [tokens], all tokens of the split.
            is_exact: refuse fewer training tokens than there are, because other keys determine their number.

        Raises:
            DataError: the number of tokens differs from the YAML, or is too small for a window.
        """
        check_split("data", split)
        num_tokens = len(tokens)
        if num_windows(num_tokens, self.context_tokens) < 1:
            raise DataError(
                f"data.folder={folder!r}: the split '{split}' has {num_tokens} tokens, less than a window of "
                f"data.context_tokens={self.context_tokens} and the token after it; "
                f"lower it to {num_tokens - 1} or less, or use more text"
            )
        if split != "train":
            return TokenWindows(tokens, self.context_tokens)
        wanted = num_tokens if self.num_train_tokens is None else self.num_train_tokens
        if wanted > num_tokens or (is_exact and wanted < num_tokens):
            raise DataError(
                f"data.folder={folder!r}: the split 'train' has {num_tokens} tokens, but data.num_train_tokens={wanted}; "
                f"set data.num_train_tokens={num_tokens} data.num_train={num_windows(num_tokens, self.context_tokens)}, "
                "or both to null and count by max_steps"
            )
        return TokenWindows(tokens[:wanted], self.context_tokens, self.shift)


def stack_prompts(texts: Sequence[str], tokens: Sequence[Tensor]) -> Tensor:
    """Stack the tokens of a user's texts, int64 [batch, time]; there is no padding token.

    Args:
        texts: for messages.
        tokens: of each text, int64 [time].

    Raises:
        UserInputError: a text has no token, or the lengths differ.
    """
    for text, own in zip(texts, tokens, strict=True):
        if len(own) == 0:
            raise UserInputError(f"{text!r} has no token to continue from; write a word")
    if len({len(own) for own in tokens}) > 1:
        lengths = ", ".join(str(len(own)) for own in tokens)
        raise UserInputError(
            f"texts of {lengths} tokens cannot be one batch, because there is no padding token; give them one by one"
        )
    return torch.stack(list(tokens))


def num_windows(num_tokens: int, context_tokens: int) -> int:
    """Return the number of adjacent windows in a stream; the last token is only a target."""
    return (num_tokens - 1) // context_tokens
