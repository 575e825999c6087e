"""A mixture of Gaussians for each class of sounds, as speech recognition had before neural networks."""

from __future__ import annotations

from collections.abc import Sequence
from math import log, pi
from typing import Final

import torch
from torch import Tensor, nn

DELTA_FRAMES: Final = 2
"""Frames on each side from which the change of a cepstrum is computed."""


class GaussianMixtures(nn.Module):
    """The log-likelihood of a sound by the mixture of each class: the sum over its frames. Frames of zeros are padding.

    A frame is described by its first cepstra and by how they change. The Gaussians are diagonal. Train it with
    optimizer=expectation_maximization and the negative log-likelihood of the true class.
    Source: Rabiner 1989, doi:10.1109/5.18626, section IV, with one state for each word; Davis and Mermelstein 1980,
    doi:10.1109/TASSP.1980.1163420 (cepstra); Furui 1986, doi:10.1109/TASSP.1986.1164788 (their change).
    """

    is_component = True

    cosines: Tensor

    def __init__(self, image_shape: Sequence[int], num_classes: int, num_gaussians: int, num_cepstra: int) -> None:
        """
        Args:
            image_shape: [1, bands, frames] of the log-mel features.
            num_classes: number of mixtures.
            num_gaussians: of each mixture.
            num_cepstra: numbers that describe a frame, at most the bands.
        """
        super().__init__()
        if len(image_shape) != 3 or image_shape[0] != 1 or min(image_shape) < 1:
            raise ValueError(
                f"GaussianMixtures wants image_shape as [1, bands, frames], but got {list(image_shape)}; choose data of sounds, "
                "such as data=fsdd"
            )
        if min(num_classes, num_gaussians, num_cepstra) < 1 or num_cepstra > image_shape[1]:
            raise ValueError(
                f"GaussianMixtures wants num_classes, num_gaussians and num_cepstra of at least 1, and num_cepstra of at most "
                f"{image_shape[1]}, the bands, but got {num_classes}, {num_gaussians} and {num_cepstra}"
            )
        self.register_buffer("cosines", _make_cosines(image_shape[1], num_cepstra), persistent=False)
        weights = torch.full((num_classes, num_gaussians, 1), -log(num_gaussians))
        # Later cepstra and changes vary less: about what `fsdd` has.
        falling = (1 + torch.arange(num_cepstra)).reciprocal()
        spread = torch.cat([4 * falling, falling])
        means = spread * torch.randn(num_classes, num_gaussians, 2 * num_cepstra)
        self.mixtures = nn.Parameter(torch.cat([weights, means, spread.square().expand_as(means)], dim=2))
        """float [num_classes, num_gaussians, 1 + 4 * num_cepstra]: the logarithm of the weight, the means and the variances."""

    def forward(self, images: Tensor) -> Tensor:
        """Map sounds, float [batch, 1, bands, frames], to log-likelihoods, float [batch, num_classes]."""
        frames = self.describe(images)
        is_valid = images.ne(0).any(2)[:, 0]  # all frames are computed: which are valid is not known on paper
        size = frames.shape[2]
        weights, means, variances = torch.split(self.mixtures.flatten(0, 1), [1, size, size], dim=1)
        constants = weights[:, 0] - 0.5 * (variances.log() + means.square() / variances + log(2 * pi)).sum(1)
        scores = constants + frames @ (means / variances).t() - 0.5 * frames.square() @ variances.reciprocal().t()
        of_frames = scores.view(*scores.shape[:2], *self.mixtures.shape[:2]).logsumexp(3)
        return (of_frames * is_valid[:, :, None]).sum(1)

    def describe(self, images: Tensor) -> Tensor:
        """Return cepstra and their change, float [batch, frames, 2 * num_cepstra]."""
        cepstra = images[:, 0].transpose(1, 2) @ self.cosines
        wide = nn.functional.pad(cepstra, (0, 0, DELTA_FRAMES, DELTA_FRAMES))
        changes = torch.zeros_like(cepstra)
        for step in range(1, DELTA_FRAMES + 1):
            after, before = (wide[:, DELTA_FRAMES + shift :][:, : cepstra.shape[1]] for shift in (step, -step))
            changes = changes + step * (after - before)
        return torch.cat([cepstra, changes / (2 * sum(step**2 for step in range(1, DELTA_FRAMES + 1)))], dim=2)


def _make_cosines(num_bands: int, num_cepstra: int) -> Tensor:
    """The cosine transform, float [num_bands, num_cepstra]; its columns are orthogonal and have the length 1."""
    places = (torch.arange(num_bands) + 0.5)[:, None] * torch.arange(num_cepstra)
    cosines: Tensor = (2 / num_bands) ** 0.5 * torch.cos(places * (pi / num_bands))
    cosines[:, 0] *= 0.5**0.5
    return cosines
