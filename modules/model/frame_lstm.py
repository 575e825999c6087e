"""Scores the tokens of a text at every frame, with a bidirectional LSTM: recordings, lines of handwriting."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.model.layers.bidirectional_lstm import BidirectionalLstm
from modules.model.seq2seq import check_sizes

Frames = tuple[Tensor, Tensor]
"""Features, float [batch, frames, features], and the valid frames of each, int64 [batch]."""


class FrameLstm(nn.Module):
    """Joins neighbouring frames, and scores each group with layers of LSTMs in both directions; for objective=ctc.

    Source: Graves et al. 2006, doi:10.1145/1143844.1143891; groups of frames of Sak et al. 2015, arXiv:1507.06947, section 2.
    """

    is_component = True

    def __init__(
        self,
        num_features: int,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        num_joined: int,
        dropout_prob: float,
    ) -> None:
        """
        Args:
            num_features: of a frame.
            vocab_size: size of the vocabulary; token 0, the padding, is the blank.
            hidden_size: units of each direction of a layer.
            num_layers: number of layers.
            num_joined: neighbouring frames that become one; a text needs at least one group for each token.
            dropout_prob: dropout after each layer.

        Raises:
            ValueError: a size is not positive, or a probability is not in [0, 1).
        """
        super().__init__()
        check_sizes(
            "FrameLstm", dropout_prob, num_features=num_features, vocab_size=vocab_size, hidden_size=hidden_size,
            num_layers=num_layers, num_joined=num_joined,
        )  # fmt: skip
        sizes = [num_features * num_joined, *[2 * hidden_size] * (num_layers - 1)]
        self.recurrent = nn.ModuleList(
            FrameLayer(size, hidden_size, num_joined if number == 0 else 1, dropout_prob)
            for number, size in enumerate(sizes)
        )
        self.head = FrameHead(2 * hidden_size, vocab_size)

    def layers(self) -> list[nn.Module]:
        """Return every recurrent layer, and the output layer."""
        return [*self.recurrent, self.head]

    def forward(self, inputs: tuple[Tensor, ...]) -> Frames:
        """Score the tokens.

        Args:
            inputs: features, float [batch, frames, num_features], and the valid frames of each, int64 [batch]; the target
                tokens are not used.

        Returns:
            Logits, float [batch, groups, vocab_size], and the valid groups of each, int64 [batch].
        """
        states: tuple[Tensor, ...] = inputs
        for layer in self.layers():
            states = layer(states)
        return cast(Frames, states)

    def score_frames(self, source: Frames) -> Frames:
        """As `ScoresFrames`."""
        logits, lengths = self(source)
        return F.log_softmax(logits.float(), dim=-1), lengths


class FrameLayer(nn.Module):
    """Joins neighbouring frames, and runs an LSTM over them in both directions."""

    def __init__(self, input_size: int, hidden_size: int, num_joined: int, dropout_prob: float) -> None:
        """
        Args:
            input_size: features of a group of frames.
            hidden_size: units of each direction.
            num_joined: frames of a group.
            dropout_prob: dropout of the outputs.
        """
        super().__init__()
        self.num_joined = num_joined
        self.lstm = BidirectionalLstm(input_size, hidden_size)
        self.dropout = nn.Dropout(dropout_prob)

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Map features, lengths and others to states, float [batch, groups, 2 * hidden_size], new lengths and the others."""
        features, lengths, *others = inputs
        features, lengths = join_frames(features, lengths, self.num_joined)
        return self.dropout(self.lstm(features, lengths)), lengths, *others


class FrameHead(nn.Module):
    """The output layer."""

    def __init__(self, input_size: int, vocab_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_size, vocab_size)

    def forward(self, inputs: tuple[Tensor, ...]) -> Frames:
        """Map states and lengths to logits, float [batch, groups, vocab_size], and the lengths."""
        return self.linear(inputs[0]), inputs[1]


def join_frames(features: Tensor, lengths: Tensor, count: int) -> Frames:
    """Put each ``count`` neighbouring frames into one; frames beyond the last whole group get zeros.

    Args:
        features: float [batch, frames, features].
        lengths: valid frames, int64 [batch].
        count: frames of a group.
    """
    if count == 1:
        return features, lengths
    missing = -features.shape[1] % count
    padded = F.pad(features, (0, 0, 0, missing))
    return padded.reshape(len(padded), -1, count * padded.shape[2]), torch.div(
        lengths + count - 1, count, rounding_mode="floor"
    )
