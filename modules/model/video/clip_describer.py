"""Describes a video in words."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.model.base import State


class ClipDescriber(nn.Module):
    """Convolutions over each frame, an LSTM over the frames, and an LSTM that writes a sentence from its last state.

    The writer also gets the last output of the reader with each word. Source: Venugopalan et al. 2015, arXiv:1505.00487.
    """

    is_component = True

    def __init__(
        self, num_channels: int, frame_size: int, frame_channels: int, hidden_size: int, target_vocab_size: int
    ) -> None:
        """
        Args:
            num_channels: of a frame.
            frame_size: pixels of each side of a frame, at least 8.
            frame_channels: of the first of three convolutions; each next one has twice as many.
            hidden_size: features of a frame and of a word, and units of both LSTMs.
            target_vocab_size: tokens of the sentences.
        """
        super().__init__()
        if min(num_channels, frame_channels, hidden_size, target_vocab_size) < 1 or frame_size < 8:
            raise ValueError(
                "ClipDescriber wants sizes of at least 1 and frame_size of at least 8, but got "
                f"num_channels={num_channels}, frame_size={frame_size}, frame_channels={frame_channels}, "
                f"hidden_size={hidden_size} and target_vocab_size={target_vocab_size}"
            )
        self.reader = ClipReader(num_channels, frame_size, frame_channels, hidden_size)
        self.writer = SentenceWriter(hidden_size, target_vocab_size)

    def layers(self) -> list[nn.Module]:
        return [self.reader, self.writer]

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Score every token of a sentence.

        Args:
            inputs: frames, float [batch, frames, num_channels, frame_size, frame_size]; and the tokens shifted by one, int64
                [batch, time].

        Returns:
            Logits, float [batch, time, target_vocab_size].
        """
        return cast(Tensor, self.writer(self.reader(inputs)))

    def encode(self, source: Tensor) -> State:
        """As `Seq2SeqDecoder`: the clip, and output m and cell state c of the writer, float [batch, hidden_size] each."""
        m, c = self.reader.read(source)
        return m, m, c

    def step(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        """As `Seq2SeqDecoder`."""
        logits, state = self.writer.write(state, words[:, None])
        return F.log_softmax(logits.squeeze(1).float(), dim=-1), state


class ClipReader(nn.Module):
    """Reads the frames in their order."""

    def __init__(self, num_channels: int, frame_size: int, frame_channels: int, hidden_size: int) -> None:
        super().__init__()
        layers, channels, size = list[nn.Module](), num_channels, frame_size
        for factor in (1, 2, 4):
            layers += [nn.Conv2d(channels, factor * frame_channels, 3, stride=2, padding=1), nn.ReLU()]
            channels, size = factor * frame_channels, -(-size // 2)
        self.frame = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size * size, hidden_size), nn.ReLU())
        self.lstm = nn.LSTM(hidden_size, hidden_size, batch_first=True)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Map frames and tokens to the tokens and the last state."""
        frames, tokens = inputs
        return tokens, *self.read(frames)

    def read(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last state, float [batch, hidden_size] each."""
        features = self.frame(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        _, (m, c) = self.lstm(features)
        return m[0], c[0]


class SentenceWriter(nn.Module):
    """Writes a sentence from a state."""

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab_size, hidden_size)
        self.lstm = nn.LSTM(2 * hidden_size, hidden_size, batch_first=True)
        self.head = nn.Linear(hidden_size, vocab_size)

    def forward(self, states: tuple[Tensor, ...]) -> Tensor:
        """Map the outputs of `ClipReader` to logits, float [batch, time, vocab_size]."""
        tokens, m, c = states
        return self.write((m, m, c), tokens)[0]

    def write(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Score the tokens after given ones, int64 [batch, time]; returns the logits and the state after them."""
        clip, m, c = state
        words = self.words(tokens)
        inputs = torch.cat([words, clip[:, None].expand(-1, words.shape[1], -1)], dim=2)
        outputs, (m, c) = self.lstm(inputs, (m[None].contiguous(), c[None].contiguous()))
        return cast(Tensor, self.head(outputs)), (clip, m[0], c[0])
