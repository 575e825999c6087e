"""Captions of photos, with attention to a part of the photo for each word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.model.base import State
from modules.model.captions.photo_encoder import PhotoEncoder
from modules.model.seq2seq import check_sizes
from modules.model.seq2seq_attention import AttentionDecoder


class AttentionCaptioner(nn.Module):
    """The decoder of `Seq2SeqAttention`, whose memory is the map of a convolutional network.

    This is the soft attention of the paper. Unlike in it, the attention has no gate and is not regularised, and the initial
    cell state is 0. Source: Xu et al. 2015, arXiv:1502.03044 (Show, Attend and Tell), section 3.
    """

    is_component = True

    def __init__(
        self,
        network: nn.Module,
        last_layer: str,
        image_shape: Sequence[int],
        vocab_size: int,
        embedding_size: int,
        hidden_size: int,
        attention_size: int,
        readout_size: int,
        dropout_prob: float,
    ) -> None:
        """
        Args:
            network: classifier of photos.
            last_layer: the last part of it that is used; a place of its maps is a place in the photo.
            image_shape: [channels, height, width].
            vocab_size: size of the vocabulary.
            embedding_size: features of a word.
            hidden_size: units of the decoder, and features of a place.
            attention_size: hidden units of the attention scores.
            readout_size: features before the output layer.
            dropout_prob: dropout of the words and the readout.
        """
        super().__init__()
        check_sizes(
            "AttentionCaptioner", dropout_prob, vocab_size=vocab_size, embedding_size=embedding_size,
            hidden_size=hidden_size, attention_size=attention_size, readout_size=readout_size,
        )  # fmt: skip
        self.encoder = PlaceEncoder(PhotoEncoder(network, last_layer, image_shape), hidden_size)
        self.decoder = PlaceDecoder(vocab_size, embedding_size, hidden_size, attention_size, readout_size, dropout_prob)
        self.head = nn.Linear(readout_size, vocab_size)

    def layers(self) -> list[nn.Module]:
        """Return encoder, decoder and output layer."""
        return [self.encoder, self.decoder, self.head]

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Score every word of the captions.

        Args:
            inputs: photos, float [batch, channels, height, width]; and the captions shifted by one, int64 [batch, time].

        Returns:
            Logits, float [batch, time, vocab_size].
        """
        return cast(Tensor, self.head(self.decoder(self.encoder(inputs))))

    def encode(self, source: Tensor) -> State:
        """As `Seq2SeqDecoder`: the places, their keys, a mask, and m and c of the decoder."""
        _, places, memory = self.encoder((source, source))
        return self.decoder.start(places, memory)

    def step(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        """As `Seq2SeqDecoder`."""
        readout, state = self.decoder.step(state, words)
        return F.log_softmax(self.head(readout).float(), dim=-1), state

    def attention(self, state: State) -> Tensor:
        """As `AttendsToPlaces`."""
        return self.decoder.weigh_places(state).view(-1, *self.encoder.network.map_size)


class PlaceEncoder(nn.Module):
    """Reduces a photo to a vector of each place."""

    def __init__(self, network: PhotoEncoder, hidden_size: int) -> None:
        super().__init__()
        self.network = network
        # The vectors of places vary as much as those of words; without this, the words drown them for hundreds of steps.
        self.project = nn.Sequential(nn.Linear(network.num_channels, hidden_size), nn.LayerNorm(hidden_size))

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Map photos and captions to captions, ones (no place is padding) and vectors, float [batch, places, hidden_size]."""
        photos, captions = inputs
        memory = self.project(self.network(photos).flatten(2).transpose(1, 2))
        return captions, torch.ones(memory.shape[:2], dtype=torch.int64, device=memory.device), memory


class PlaceDecoder(AttentionDecoder):
    """The initial state depends on the mean of all places."""

    def __init__(
        self,
        vocab_size: int,
        embedding_size: int,
        hidden_size: int,
        attention_size: int,
        readout_size: int,
        dropout_prob: float,
    ) -> None:
        super().__init__(vocab_size, embedding_size, hidden_size, attention_size, readout_size, dropout_prob)
        self.first = nn.Linear(hidden_size, hidden_size)

    def summarise(self, memory: Tensor) -> Tensor:
        return memory.mean(1)
