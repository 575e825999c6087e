"""Captions of photos: a convolutional network encodes a photo, and an LSTM writes its caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, cat, nn

from modules.model.base import State
from modules.model.captions.photo_encoder import PhotoEncoder
from modules.model.seq2seq import check_sizes


class Captioner(nn.Module):
    """An LSTM whose first input is the photo, and whose further inputs are the words.

    Source: Vinyals et al. 2015, arXiv:1411.4555 (Show and Tell), section 3.
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
        dropout_prob: float,
    ) -> None:
        """
        Args:
            network: classifier of photos.
            last_layer: the last part of it that is used; the mean over its maps is the photo.
            image_shape: [channels, height, width].
            vocab_size: size of the vocabulary.
            embedding_size: features of a word, and of the photo.
            hidden_size: units of the LSTM.
            dropout_prob: dropout of the photo, the words and the outputs.
        """
        super().__init__()
        check_sizes(
            "Captioner", dropout_prob, vocab_size=vocab_size, embedding_size=embedding_size, hidden_size=hidden_size
        )
        self.encoder = MeanEncoder(PhotoEncoder(network, last_layer, image_shape), embedding_size)
        self.decoder = LstmDecoder(vocab_size, embedding_size, hidden_size, dropout_prob)
        self.head = nn.Linear(hidden_size, vocab_size)

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
        """As `Seq2SeqDecoder`: m and c after the photo, float [batch, hidden_size] each."""
        return self.decoder.start(self.encoder.summarise(source))

    def step(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        """As `Seq2SeqDecoder`."""
        outputs, state = self.decoder.step(state, words)
        return F.log_softmax(self.head(outputs).float(), dim=-1), state


class MeanEncoder(nn.Module):
    """Reduces a photo to one vector."""

    def __init__(self, network: PhotoEncoder, embedding_size: int) -> None:
        super().__init__()
        self.network = network
        # The vector of a photo varies as much as those of words; without this, the words drown it for hundreds of steps.
        self.project = nn.Sequential(nn.Linear(network.num_channels, embedding_size), nn.LayerNorm(embedding_size))

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Map photos and captions to captions and vectors, float [batch, embedding_size]."""
        photos, captions = inputs
        return captions, self.summarise(photos)

    def summarise(self, photos: Tensor) -> Tensor:
        return cast(Tensor, self.project(self.network(photos).mean(dim=(2, 3))))


class LstmDecoder(nn.Module):
    """An LSTM over the vector of a photo and the words of its caption."""

    def __init__(self, vocab_size: int, embedding_size: int, hidden_size: int, dropout_prob: float) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab_size, embedding_size)
        self.lstm = nn.LSTM(embedding_size, hidden_size, batch_first=True)
        self.dropout = nn.Dropout(dropout_prob)

    def forward(self, states: tuple[Tensor, Tensor]) -> Tensor:
        """Map captions and vectors of photos to outputs of the words, float [batch, time, hidden_size]."""
        captions, photos = states
        inputs = self.dropout(cat([photos[:, None], self.words(captions)], dim=1))
        return cast(Tensor, self.dropout(self.lstm(inputs)[0][:, 1:]))

    def start(self, photos: Tensor) -> State:
        """Return m and c after the vectors of photos, float [batch, embedding_size]."""
        _, (m, c) = self.lstm(self.dropout(photos)[:, None])
        return m[0], c[0]

    def step(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        """Return the outputs of one word of every caption, float [captions, hidden_size], and the state."""
        m, c = (each[None].contiguous() for each in state)
        outputs, (m, c) = self.lstm(self.dropout(self.words(words))[:, None], (m, c))
        return self.dropout(outputs[:, 0]), (m[0], c[0])
