"""Convolutions and a recurrent network that read a line of text in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.model.layers.bidirectional_lstm import BidirectionalLstm

_STRIDE = 4
"""Pixels of a frame."""


class Crnn(nn.Module):
    """Scores the characters at every fourth column of a picture, for CTC.

    Four blocks of convolution, batch normalisation and ReLU; pooling halves the height after each, and the width after the first
    two. Columns behind the width of a picture are set to 0 in every block, so they do not influence its scores.
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
        sizes = [1, *num_filters]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
            for before, after in pairwise(sizes)
        )
        self.height = height
        self.reader = BidirectionalLstm(num_filters[-1] * (height // 8), hidden_size)
        self.head = nn.Linear(2 * hidden_size, vocab_size)

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Score the characters of pictures.

        Args:
            inputs: pictures, float [batch, 1, height, width], with a width that is a multiple of 4; the width of each in pixels,
                int64 [batch]; and what is not used, the target.

        Returns:
            Logits, float [batch, width / 4, vocab_size], and the number of valid frames, int64 [batch].
        """
        pictures, widths = inputs[0], inputs[1]
        if pictures.shape[2] != self.height or pictures.shape[3] % _STRIDE:
            raise ValueError(
                f"Crnn wants pictures with a height of {self.height} and a width that is a multiple of {_STRIDE}, but got "
                f"{pictures.shape[2]} and {pictures.shape[3]}; set model.height=${{data.height}}"
            )
        maps = pictures
        for number, block in enumerate(self.blocks):
            maps = block(maps)
            if number < 3:
                maps = functional.max_pool2d(maps, (2, 2 if number < 2 else 1))
            scale = pictures.shape[3] // maps.shape[3]
            columns = torch.arange(maps.shape[3], device=maps.device) * scale
            maps = maps * (columns < widths[:, None])[:, None, None, :]
        frames = maps.flatten(1, 2).transpose(1, 2)
        lengths = (widths + _STRIDE - 1) // _STRIDE
        return cast(Tensor, self.head(self.reader(frames, lengths))), lengths

    def score_frames(self, source: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """As `ScoresFrames`."""
        logits, lengths = self(source)
        return logits.float().log_softmax(dim=-1), lengths
