"""Sequence to sequence: a deep LSTM encodes a text into its state, and another decodes from this state."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.data.base import PADDING
from modules.model.base import State


class Seq2Seq(nn.Module):
    """An encoder and a decoder of LSTM layers; the decoder only gets the last state of the encoder.

    The LSTM of the encoder has no biases. Padding comes first, as zero vectors, so it leaves the state exactly at zero. The
    paper has four layers of 1,000 units. Source: Sutskever et al. 2014, arXiv:1409.3215.
    """

    is_component = True

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
            source_vocab_size: size of the source vocabulary.
            target_vocab_size: size of the target vocabulary.
            embedding_size: features of a token.
            hidden_size: units of every layer of encoder and decoder.
            num_layers: layers of the encoder, and of the decoder.
            reverse_source: encode the source from its last token to its first, so that the first tokens of both are close.
            dropout_prob: dropout between layers.

        Raises:
            ValueError: a size is not positive, or a probability is not in [0, 1).
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
        self.writers = nn.ModuleList(Decoder(size, hidden_size, dropout_prob) for size in sizes)
        self.head = OutputLayer(hidden_size, target_vocab_size)

    def layers(self) -> list[nn.Module]:
        """Return embedding, encoder layers, embedding, decoder layers and output layer; the paper uses a device per layer."""
        return [self.source_words, *self.readers, self.target_words, *self.writers, self.head]

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Score every token of the translation.

        Args:
            inputs: the source, int64 [batch, time], padded at its end; and the target shifted by one, int64 [batch, time of
                the target].

        Returns:
            Logits, float [batch, time of the target, target_vocab_size].
        """
        states: Tensor | tuple[Tensor, ...] = inputs
        for layer in self.layers():
            states = layer(states)
        return cast(Tensor, states)

    def encode(self, source: Tensor) -> State:
        """As `Seq2SeqDecoder`: output m and cell state c of every layer, float [batch, hidden_size] each."""
        states: tuple[Tensor, ...] = self.source_words((source, source))
        for reader in self.readers:
            states = reader(states)
        return states[2:]

    def step(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        """As `Seq2SeqDecoder`."""
        states: tuple[Tensor, ...] = self.target_words((words[:, None], words, *state))
        after: State = ()
        for writer in self.writers:
            outputs, new = cast(Decoder, writer).decode(states[0], states[1], states[2])
            states, after = (outputs, *states[3:]), (*after, *new)
        return F.log_softmax(self.head(states).squeeze(1).float(), dim=-1), after


class SourceWords(nn.Module):
    """Embeds the source, with padding first."""

    def __init__(self, vocab_size: int, embedding_size: int, reverse: bool, dropout_prob: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_size, padding_idx=PADDING)
        self.dropout = nn.Dropout(dropout_prob)
        self.reverse = reverse

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Map source and target to the target and the vectors of the source."""
        source, target = inputs
        source = source.flip(1) if self.reverse else _move_padding_first(source)
        return target, self.dropout(self.embedding(source))


class Encoder(nn.Module):
    """One LSTM layer of the encoder."""

    def __init__(self, input_size: int, hidden_size: int, dropout_prob: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True, bias=False)
        self.dropout = nn.Dropout(dropout_prob)

    def forward(self, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Map the target, the outputs of the layer below and the final states so far to the same of this layer."""
        target, below, *ends = states
        outputs, (m, c) = self.lstm(below)
        return target, self.dropout(outputs), *ends, m[0], c[0]


class TargetWords(nn.Module):
    """Embeds the target."""

    def __init__(self, vocab_size: int, embedding_size: int, dropout_prob: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        self.dropout = nn.Dropout(dropout_prob)

    def forward(self, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Map the outputs of the last `Encoder` to the vectors of the target and the final states of all encoder layers."""
        target, _, *ends = states
        return self.dropout(self.embedding(target)), *ends


class Decoder(nn.Module):
    """One LSTM layer of the decoder; its initial state is the final state of the same encoder layer."""

    def __init__(self, input_size: int, hidden_size: int, dropout_prob: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True)
        self.dropout = nn.Dropout(dropout_prob)

    def forward(self, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Map the outputs of the layer below and the initial states of this and all upper layers to the same for the next."""
        below, m, c, *others = states
        return self.decode(below, m, c)[0], *others

    def decode(self, below: Tensor, m: Tensor, c: Tensor) -> tuple[Tensor, State]:
        """Return the outputs, float [batch, time, hidden_size], and the last state."""
        outputs, (m, c) = self.lstm(below, (m[None].contiguous(), c[None].contiguous()))
        return self.dropout(outputs), (m[0], c[0])


class OutputLayer(nn.Module):
    """Scores every token of the vocabulary."""

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, vocab_size)

    def forward(self, states: tuple[Tensor, ...]) -> Tensor:
        return cast(Tensor, self.linear(states[0]))


def check_sizes(owner: str, dropout_prob: float, **sizes: int) -> None:
    """
    Raises:
        ValueError: a size is not positive, or the probability is not in [0, 1).
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{owner} wants {name} of at least 1, but got {size}; raise it")
    if not 0 <= dropout_prob < 1:
        raise ValueError(f"{owner} wants dropout_prob in [0, 1), but got {dropout_prob}; 0 means no dropout")


def _move_padding_first(words: Tensor) -> Tensor:
    """Move the padding of texts, int64 [batch, time], from the end to the beginning."""
    time = words.shape[1]
    padding = (words == PADDING).sum(1, keepdim=True)
    places = torch.arange(time, device=words.device) - padding
    return words.gather(1, places % time)
