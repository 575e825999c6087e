"""Recognises the text of a recording with attention."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.model.base import State
from modules.model.frame_lstm import FrameLayer, Frames
from modules.model.seq2seq import check_sizes
from modules.model.seq2seq_attention import AttentionDecoder


class ListenAttendSpell(nn.Module):
    """A pyramid of LSTMs in both directions over the frames, and the attention decoder of `Seq2SeqAttention`.

    Each layer joins two neighbouring time steps of the layer below, so attention has few places to choose from. Unlike the
    paper, the decoder has one layer, and its outputs are any tokens instead of characters.
    Source: Chan et al. 2015, arXiv:1508.01211, section 3.
    """

    is_component = True

    def __init__(
        self,
        num_features: int,
        vocab_size: int,
        encoder_size: int,
        num_layers: int,
        embedding_size: int,
        attention_size: int,
        readout_size: int,
        dropout_prob: float,
    ) -> None:
        """
        Args:
            num_features: of a frame.
            vocab_size: size of the vocabulary.
            encoder_size: units of each direction of the encoder; the decoder has twice as many.
            num_layers: layers of the pyramid; 3 make 8 frames one.
            embedding_size: features of a token.
            attention_size: hidden units of the attention scores.
            readout_size: features before the output layer.
            dropout_prob: dropout after every layer of the encoder, the embeddings and the readout.

        Raises:
            ValueError: a size is not positive, or a probability is not in [0, 1).
        """
        super().__init__()
        check_sizes(
            "ListenAttendSpell", dropout_prob, num_features=num_features, vocab_size=vocab_size, encoder_size=encoder_size,
            num_layers=num_layers, embedding_size=embedding_size, attention_size=attention_size, readout_size=readout_size,
        )  # fmt: skip
        size = 2 * encoder_size
        self.listener = nn.ModuleList(
            FrameLayer(2 * (num_features if number == 0 else size), encoder_size, 2, dropout_prob)
            for number in range(num_layers)
        )
        self.speller = Speller(vocab_size, embedding_size, size, attention_size, readout_size, dropout_prob)
        self.head = nn.Linear(readout_size, vocab_size)

    def layers(self) -> list[nn.Module]:
        """Return every layer of the encoder, the decoder and the output layer."""
        return [*self.listener, self.speller, self.head]

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Score every token of the text.

        Args:
            inputs: features, float [batch, frames, num_features]; the valid frames of each, int64 [batch]; and the target
                shifted by one, int64 [batch, time].

        Returns:
            Logits, float [batch, time, vocab_size].
        """
        states: tuple[Tensor, ...] = inputs
        for layer in self.layers():
            states = layer(states)
        return cast(Tensor, states)

    def encode(self, source: Frames) -> State:
        """As `Seq2SeqDecoder`: the state of `AttentionDecoder`."""
        states: tuple[Tensor, ...] = source
        for layer in self.listener:
            states = layer(states)
        memory, lengths = states
        return self.speller.start(find_valid(lengths, memory), memory)

    def step(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        """As `Seq2SeqDecoder`."""
        readout, state = self.speller.step(state, words)
        return F.log_softmax(self.head(readout).float(), dim=-1), state


class Speller(AttentionDecoder):
    """The attention decoder over time steps instead of words."""

    def forward(self, states: tuple[Tensor, ...]) -> Tensor:
        """Map outputs of the encoder, their lengths and the target to the readout, float [batch, time, readout_size]."""
        memory, lengths, target = states
        return super().forward((target, find_valid(lengths, memory), memory))


def find_valid(lengths: Tensor, memory: Tensor) -> Tensor:
    """Return 1 for valid time steps and 0, which is `PADDING`, for others, int64 [batch, time]; at least one is valid."""
    places = torch.arange(memory.shape[1], device=lengths.device)
    return (places < lengths.clamp_min(1)[:, None]).long()
