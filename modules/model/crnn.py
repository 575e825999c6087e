"""Convolutions and a recurrent network that read a line of text in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from modules.model.layers.bidirectional_lstm import BidirectionalLstm

_POOLS = ((2, 2), (2, 2), (2, 1), (1, 1))
"""Rows and columns that become one after each block: a frame has 4 pixels."""


class Crnn(nn.Module):
    """Scores the characters at every fourth column of a picture, for CTC.

    Four blocks of convolution, batch normalisation and ReLU; pooling halves the height after the first three, and the width after
    the first two. Columns behind the width of a picture are set to 0 in every block, so they do not influence its scores.
    Source: Shi et al. 2015, arXiv:1507.05717, with fewer and narrower layers.
    """

    is_component = True

    def __init__(self, height: int, num_filters: Sequence[int], hidden_size: int, vocab_size: int) -> None:
        """
        Args:
            height: of a picture in pixels, a multiple of 8.
            num_filters: of each of the four blocks.
            hidden_size: LSTM units of each direction.
            vocab_size: scored tokens, with the blank.

        Raises:
            ValueError: a value does not fit.
        """
        super().__init__()
        if height < 8 or height % 8:
            raise ValueError(f"Crnn wants a height that is a multiple of 8, but got {height}; set data.height too")
        if len(num_filters) != 4 or min(num_filters) < 1:
            raise ValueError(f"Crnn wants num_filters of 4 blocks, at least 1 each, but got {list(num_filters)}")
        self.height = height
        self.blocks = nn.ModuleList(
            CrnnBlock(before, after, pool)
            for (before, after), pool in zip(pairwise([1, *num_filters]), _POOLS, strict=True)
        )
        self.reader = CrnnReader(num_filters[-1] * (height // 8), hidden_size, vocab_size)

    def layers(self) -> list[nn.Module]:
        """Return every convolutional block, and the recurrent part."""
        return [*self.blocks, self.reader]

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Score the characters of pictures.

        Args:
            inputs: pictures, float [batch, 1, height, width], with a width that is a multiple of 4; the width of each in pixels,
                int64 [batch]; and what is not used, the target.

        Returns:
            Logits, float [batch, width / 4, vocab_size], and the number of valid frames, int64 [batch].
        """
        states: tuple[Tensor, ...] = inputs
        for layer in self.layers():
            states = layer(states)
        return cast(tuple[Tensor, Tensor], states)

    def score_frames(self, source: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """As `ScoresFrames`."""
        logits, lengths = self(source)
        return logits.float().log_softmax(dim=-1), lengths


class CrnnBlock(nn.Module):
    """Convolution, batch normalisation, ReLU and pooling."""

    def __init__(self, num_inputs: int, num_filters: int, pool: tuple[int, int]) -> None:
        """
        Args:
            num_inputs: channels below.
            num_filters: channels above.
            pool: rows and columns that become one.
        """
        super().__init__()
        self.pool = pool
        self.stack = nn.Sequential(
            nn.Conv2d(num_inputs, num_filters, 3, padding=1, bias=False),
            nn.BatchNorm2d(num_filters),
            nn.ReLU(),
            nn.MaxPool2d(pool),
        )

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Map maps, float [batch, channels, height, width], and widths, int64 [batch], to smaller ones."""
        maps, widths = inputs[0], inputs[1]
        if maps.shape[2] % self.pool[0] or maps.shape[3] % self.pool[1]:
            raise ValueError(
                f"Crnn wants pictures whose height is model.height and whose width is a multiple of 4, but a block gets "
                f"{maps.shape[2]} rows and {maps.shape[3]} columns; set model.height=${{data.height}}"
            )
        maps = self.stack(maps)
        widths = (widths + self.pool[1] - 1) // self.pool[1]
        is_valid = torch.arange(maps.shape[3], device=maps.device) < widths[:, None]
        return maps * is_valid[:, None, None, :], widths


class CrnnReader(nn.Module):
    """An LSTM in both directions over the columns of maps, and the scores of the characters."""

    def __init__(self, num_features: int, hidden_size: int, vocab_size: int) -> None:
        """
        Args:
            num_features: channels times rows of the maps.
            hidden_size: units of each direction.
            vocab_size: scored tokens.
        """
        super().__init__()
        self.recurrent = BidirectionalLstm(num_features, hidden_size)
        self.head = nn.Linear(2 * hidden_size, vocab_size)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Map maps and widths to logits, float [batch, columns, vocab_size], and widths."""
        maps, widths = inputs
        return self.head(self.recurrent(maps.flatten(1, 2).transpose(1, 2), widths)), widths
