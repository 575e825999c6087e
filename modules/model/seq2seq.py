"""Sequence to sequence: one deep LSTM reads a text into its state, another writes from that state."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.data.base import PADDING
from modules.model.base import State


class Seq2Seq(nn.Module):
    """Translates a text by what its reader remembers at the end, and nothing else.

    The reader's LSTM has no biases: the padding then comes first, as vectors of zeros, and leaves the state at zero to the
    last bit. The paper has four layers of 1,000 units. Source: Sutskever et al. 2014, arXiv:1409.3215.
    """

    def __init__(
        self,
        source_vocab_size: int,
        target_vocab_size: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int,
        reverse_source: bool,
        dropout_prob: float,
    ) -> None:
        """
        Args:
            source_vocab_size: words of the source that there are.
            target_vocab_size: words to write.
            embedding_size: features of a word.
            hidden_size: units of every layer, of the reader and of the writer.
            num_layers: layers of each.
            reverse_source: read the source from its last word to its first, so that the first words of both are near.
            dropout_prob: share of the features between layers that a training step leaves out.

        Raises:
            ValueError: a size is not positive, or a share is none.
        """
        super().__init__()
        check_sizes(
            "Seq2Seq",
            dropout_prob,
            source_vocab_size=source_vocab_size,
            target_vocab_size=target_vocab_size,
            embedding_size=embedding_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
        )
        sizes = [embedding_size] + [hidden_size] * (num_layers - 1)
        self.source_words = SourceWords(source_vocab_size, embedding_size, reverse_source, dropout_prob)
        self.readers = nn.ModuleList(Encoder(size, hidden_size, dropout_prob) for size in sizes)
        self.target_words = TargetWords(target_vocab_size, embedding_size, dropout_prob)
        self.writers = nn.ModuleList(Writer(size, hidden_size, dropout_prob) for size in sizes)
        self.head = OutputLayer(hidden_size, target_vocab_size)

    def layers(self) -> list[nn.Module]:
        """Words, readers, words, writers, scores: as pipeline stages, a layer a device, as the paper has them."""
        return [self.source_words, *self.readers, self.target_words, *self.writers, self.head]

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Score every word of the translation by those before it.

        Args:
            inputs: the source, int64 [batch, time], padded at its end; and the target's words before each, int64 [batch,
                time of the target].

        Returns:
            Logits, float [batch, time of the target, target_vocab_size].
        """
        states: Tensor | tuple[Tensor, ...] = inputs
        for layer in self.layers():
            states = layer(states)
        return cast(Tensor, states)

    def encode(self, source: Tensor) -> State:
        """As `Writes`: of every layer what it gives, m, and what it remembers, c; float [batch, hidden_size] each."""
        states: tuple[Tensor, ...] = self.source_words((source, source))
        for reader in self.readers:
            states = reader(states)
        return states[2:]

    def step(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        """As `Writes`."""
        states: tuple[Tensor, ...] = self.target_words((words[:, None], words, *state))
        after: State = ()
        for writer in self.writers:
            given, new = cast(Writer, writer).written(states[0], states[1], states[2])
            states, after = (given, *states[3:]), (*after, *new)
        return F.log_softmax(self.head(states).squeeze(1).float(), dim=-1), after


class SourceWords(nn.Module):
    """Reads the source's words as vectors, padding first."""

    def __init__(self, vocab_size: int, embedding_size: int, reverse: bool, dropout_prob: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_size, padding_idx=PADDING)
        self.dropout = nn.Dropout(dropout_prob)
        self.reverse = reverse

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """From the source and the target's words to the latter and the former's vectors."""
        source, target = inputs
        source = source.flip(1) if self.reverse else _padded_first(source)
        return target, self.dropout(self.embedding(source))


class Encoder(nn.Module):
    """One layer of the LSTM that reads."""

    def __init__(self, input_size: int, hidden_size: int, dropout_prob: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True, bias=False)
        self.dropout = nn.Dropout(dropout_prob)

    def forward(self, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The target's words, what the layer below gives, and the ends of the layers below; to the same with its own."""
        target, below, *ends = states
        given, (m, c) = self.lstm(below)
        return target, self.dropout(given), *ends, m[0], c[0]


class TargetWords(nn.Module):
    """Reads the target's words as vectors."""

    def __init__(self, vocab_size: int, embedding_size: int, dropout_prob: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        self.dropout = nn.Dropout(dropout_prob)

    def forward(self, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What `Encoder` gives; to the words' vectors and the ends of all readers."""
        target, _, *ends = states
        return self.dropout(self.embedding(target)), *ends


class Writer(nn.Module):
    """One layer of the LSTM that writes; it starts where the reader of the same height has ended."""

    def __init__(self, input_size: int, hidden_size: int, dropout_prob: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True)
        self.dropout = nn.Dropout(dropout_prob)

    def forward(self, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What the layer below gives, and the ends of this height and of those above; to the same without the first."""
        below, m, c, *others = states
        return self.written(below, m, c)[0], *others

    def written(self, below: Tensor, m: Tensor, c: Tensor) -> tuple[Tensor, State]:
        """What it gives, float [batch, time, hidden_size], and its state after the last time."""
        given, (m, c) = self.lstm(below, (m[None].contiguous(), c[None].contiguous()))
        return self.dropout(given), (m[0], c[0])


class OutputLayer(nn.Module):
    """Scores every word of the vocabulary."""

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, vocab_size)

    def forward(self, states: tuple[Tensor, ...]) -> Tensor:
        return cast(Tensor, self.linear(states[0]))


def check_sizes(owner: str, dropout_prob: float, **sizes: int) -> None:
    """
    Raises:
        ValueError: a size is not positive, or the share is none.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{owner} wants {name} of at least 1, but got {size}; raise it")
    if not 0 <= dropout_prob < 1:
        raise ValueError(f"{owner} wants dropout_prob in [0, 1), but got {dropout_prob}; 0 leaves nothing out")


def _padded_first(words: Tensor) -> Tensor:
    """Texts of int64 [batch, time] with their padding before them instead of after."""
    time = words.shape[1]
    padding = (words == PADDING).sum(1, keepdim=True)
    places = torch.arange(time, device=words.device) - padding
    return words.gather(1, places % time)
