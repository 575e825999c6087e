"""Data of a language model: one stream of tokens, seen in windows, each token's target the one that follows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from modules.data.base import Batch, DataError, UserInputError
from modules.data.tensors import check_at_least, check_split


class TokenWindows:
    """Windows of a stream, side by side; what is left at its end and fills none is not seen.

    Every window stands by itself: a model starts it without a memory of the one before.
    """

    in_memory = True

    def __init__(self, tokens: Tensor, context_tokens: int, shift: bool = False) -> None:
        """
        Args:
            tokens: int64 [tokens], the stream.
            context_tokens: tokens that a model sees at once.
            shift: move every window of a batch on by a number of tokens below ``context_tokens``, each by its own
                chance, so that an epoch cuts the stream elsewhere than the last one did.
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

    def batch(self, indices: Tensor, generator: Generator) -> Batch:
        """Inputs and targets, int64 [batch, context_tokens]; a target is the token after its input."""
        starts = indices * self.context_tokens
        if self.shift:
            starts = starts + torch.randint(self.context_tokens, (len(indices),), generator=generator)
        every = self.tokens.unfold(0, self.context_tokens + 1, 1)  # a view: a window from every token on
        windows = every.index_select(0, starts.clamp_max(len(every) - 1) if self.shift else starts)
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


@dataclass(frozen=True)
class WindowSizes:
    """How a set is cut, as its YAML states it; numbers that contradict each other are told before a file is read."""

    context_tokens: int
    num_train_tokens: int | None
    """Tokens to train on, the first of the training part; None takes all."""
    num_train: int | None
    """Windows of these, which an epoch is counted by; None where only steps are counted."""
    shift: bool
    """Whether training moves its windows by chance, as `TokenWindows` does."""

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
        """The windows of a split.

        Args:
            folder: that of the set, for messages.
            split: "train", "val" or "test".
            tokens: int64 [tokens], the whole of it.
            is_exact: training on the first tokens only is refused too, as where their number follows from other keys.

        Raises:
            DataError: there are other numbers of tokens than the YAML says, or too few for one window.
        """
        check_split("data", split)
        found = len(tokens)
        if num_windows(found, self.context_tokens) < 1:
            raise DataError(
                f"data.folder={folder!r}: the split '{split}' has {found} tokens, less than a window of "
                f"data.context_tokens={self.context_tokens} and the token after it; "
                f"lower it to {found - 1} or less, or bring more text"
            )
        if split != "train":
            return TokenWindows(tokens, self.context_tokens)
        wanted = found if self.num_train_tokens is None else self.num_train_tokens
        if wanted > found or (is_exact and wanted < found):
            raise DataError(
                f"data.folder={folder!r}: the split 'train' has {found} tokens, but data.num_train_tokens={wanted}; "
                f"set data.num_train_tokens={found} data.num_train={num_windows(found, self.context_tokens)}, "
                "or both to null and count by max_steps"
            )
        return TokenWindows(tokens[:wanted], self.context_tokens, self.shift)


def beginnings(given: Sequence[str], tokens: Sequence[Tensor]) -> Tensor:
    """Texts of a user as one batch, int64 [batch, time]; no token stands for padding.

    Args:
        given: the texts, for messages.
        tokens: of each, int64 [time].

    Raises:
        GivenError: one has no token, or they have different numbers of them.
    """
    for text, own in zip(given, tokens, strict=True):
        if len(own) == 0:
            raise UserInputError(f"{text!r} has no token to go on from; write a word")
    if len({len(own) for own in tokens}) > 1:
        lengths = ", ".join(str(len(own)) for own in tokens)
        raise UserInputError(
            f"texts of {lengths} tokens make no batch, as none of these is padding; give them one by one"
        )
    return torch.stack(list(tokens))


def num_windows(num_tokens: int, context_tokens: int) -> int:
    """Windows that lie side by side in a stream; the last token is a target only."""
    return (num_tokens - 1) // context_tokens
