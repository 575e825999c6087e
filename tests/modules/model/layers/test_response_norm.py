import pytest
import torch
from torch import nn

from modules.model.layers.response_norm import ResponseNorm


def test_response_norm_is_tensorflows_formula_by_hand() -> None:
    images = torch.randn(2, 11, 3, 5) * 20
    norm = ResponseNorm(num_channels=11, radius=4, bias=1.0, alpha=0.001 / 9, beta=0.75)
    normed = norm(images)
    for channel in range(11):
        squares = sum(images[:, c] ** 2 for c in range(max(0, channel - 4), min(11, channel + 5)))
        torch.testing.assert_close(normed[:, channel], images[:, channel] / (1.0 + 0.001 / 9 * squares) ** 0.75)


def test_response_norm_agrees_with_torch_once_alpha_is_the_windows() -> None:
    images = torch.randn(2, 11, 3, 5) * 20
    ours = ResponseNorm(num_channels=11, radius=2, bias=2.0, alpha=0.1, beta=0.5)
    torchs = nn.LocalResponseNorm(size=5, k=2.0, alpha=0.1 * 5, beta=0.5)
    torch.testing.assert_close(ours(images), torchs(images))


def test_response_norm_has_nothing_to_save() -> None:
    norm = ResponseNorm(num_channels=11, radius=4, bias=1.0, alpha=0.001, beta=0.75)
    assert not norm.state_dict()
    assert not list(norm.parameters())


def test_response_norm_wants_channels() -> None:
    with pytest.raises(ValueError, match="ResponseNorm wants num_channels >= 1 and radius >= 0, but got 0, 4"):
        ResponseNorm(num_channels=0, radius=4, bias=1.0, alpha=0.001, beta=0.75)
