"""Expectation-maximisation beside scikit-learn, from the same start."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from modules.model.gaussian_mixtures import GaussianMixtures
from modules.optimizer.expectation_maximization import ExpectationMaximization

NUM_STEPS, SHAPE = 4, (1, 6, 7)


def fit(model: GaussianMixtures, images: Tensor, classes: Tensor, num_parts: int) -> None:
    optimizer = ExpectationMaximization(model.parameters(), min_variance=1e-6)
    for _ in range(NUM_STEPS):
        for own, true in zip(images.chunk(num_parts), classes.chunk(num_parts), strict=True):
            (nn.functional.nll_loss(model(own), true) / num_parts).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()


def test_steps_are_those_of_scikit_learn() -> None:
    torch.manual_seed(0)
    images, classes = torch.randn(12, *SHAPE), torch.arange(12) % 2
    model = GaussianMixtures(SHAPE, 2, 3, 2)
    start = model.mixtures.detach().clone()
    fit(model, images, classes, num_parts=3)
    frames = model.describe(images).double().numpy()
    for number in range(2):
        peer = GaussianMixture(
            3, covariance_type="diag", tol=0, reg_covar=0, max_iter=NUM_STEPS, weights_init=np.full(3, 1 / 3),
            means_init=start[number, :, 1:5].double().numpy(), precisions_init=1 / start[number, :, 5:].double().numpy(),
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            peer.fit(frames[number::2].reshape(-1, 4))
        own = model.mixtures.detach()[number].numpy()
        np.testing.assert_allclose(np.exp(own[:, 0]), peer.weights_, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(own[:, 1:5], peer.means_, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(own[:, 5:], peer.covariances_, rtol=1e-3, atol=1e-5)
        scores = peer.score_samples(frames.reshape(-1, 4)).reshape(12, -1).sum(1)
        np.testing.assert_allclose(model(images).detach()[:, number], scores, rtol=1e-3)


def test_padding_and_gaussians_without_frames_change_nothing() -> None:
    torch.manual_seed(0)
    model = GaussianMixtures(SHAPE, 2, 2, 2)
    images = torch.randn(2, *SHAPE)
    images[:, :, :, 5:] = 0
    with torch.no_grad():
        model.mixtures[0, 0, 1:5] = 1e3  # far from all frames
    before = model.mixtures.detach().clone()
    fit(model, images, torch.zeros(2, dtype=torch.int64), num_parts=1)
    after = model.mixtures.detach()
    torch.testing.assert_close(after[0, 0, 1:], before[0, 0, 1:])
    torch.testing.assert_close(after[1], before[1])
    assert not torch.equal(after[0, 1], before[0, 1])


def test_other_parameters_and_shapes_are_refused() -> None:
    weight = nn.Parameter(torch.zeros(2, 3))
    weight.grad = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="use model=gaussian_mixtures, or another optimizer"):
        ExpectationMaximization([weight]).step()
    with pytest.raises(ValueError, match="lr from 0 to 1"):
        ExpectationMaximization([weight], lr=2)
    with pytest.raises(ValueError, match="choose data of sounds"):
        GaussianMixtures((3, 6, 7), 2, 2, 2)
    with pytest.raises(ValueError, match="num_cepstra of at most 6"):
        GaussianMixtures(SHAPE, 2, 2, 7)
