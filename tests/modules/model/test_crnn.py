"""The reader of lines of text."""

from __future__ import annotations

import pytest
import torch

from modules.model.base import Layered, ScoresFrames
from modules.model.crnn import Crnn


def test_what_is_behind_a_picture_does_not_change_its_scores() -> None:
    torch.manual_seed(0)
    model = Crnn(16, [3, 4, 5, 6], 7, 9).eval()
    assert isinstance(model, ScoresFrames)
    assert isinstance(model, Layered)
    pictures, widths = torch.randn(2, 1, 16, 64), torch.tensor([64, 40])
    pictures[1, :, :, 40:] = 0
    together, lengths = model((pictures, widths, torch.zeros(2, 3)))
    alone, _ = model((pictures[1:, :, :, :40], widths[1:]))
    assert lengths.tolist() == [16, 10]
    assert torch.allclose(together[1, :10], alone[0], atol=1e-6)
    scores, _ = model.score_frames((pictures, widths))
    assert torch.allclose(scores.exp().sum(2), torch.ones(2, 16), atol=1e-5)


def test_sizes_that_do_not_fit_are_reported() -> None:
    with pytest.raises(ValueError, match="a height that is a multiple of 8, but got 20"):
        Crnn(20, [3, 4, 5, 6], 7, 9)
    with pytest.raises(ValueError, match=r"num_filters of 4 blocks, at least 1 each, but got \[3, 4\]"):
        Crnn(16, [3, 4], 7, 9)
    with pytest.raises(ValueError, match=r"a block gets 8 rows and 15 columns; set model.height=\$\{data.height\}"):
        Crnn(16, [3, 4, 5, 6], 7, 9)((torch.zeros(1, 1, 16, 30), torch.tensor([30])))
