"""Expectation-maximisation for mixtures of Gaussians, from the gradient of their log-likelihood."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class ExpectationMaximization(Optimizer):
    """One step of expectation-maximisation: new weights, means and variances from the responsibilities of the Gaussians.

    The gradient holds the sums that a step needs: with respect to the logarithm of a weight it is the sum of the
    responsibilities, with respect to a mean and a variance the distance to the new ones. So with the whole training set as
    the batch, it is the algorithm of Dempster et al., on any number of replicas; with a part of it, the mixtures follow
    that part.
    Source: Dempster et al. 1977, doi:10.1111/j.2517-6161.1977.tb01600.x; Xu and Jordan 1996, doi:10.1162/neco.1996.8.1.129.
    """

    is_component = True

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float = 1.0, min_variance: float = 1e-3
    ) -> None:
        """
        Args:
            params: mixtures, float [mixtures, gaussians, 1 + 2 * features] each: the logarithm of the weight, the means and the
                variances, as in `modules.model.gaussian_mixtures.GaussianMixtures`.
            lr: part of the way to the new values, from 0 to 1; 1 is the algorithm.
            min_variance: lower variances are raised to it.
        """
        if not 0 <= lr <= 1 or not min_variance > 0:
            raise ValueError(
                f"ExpectationMaximization wants lr from 0 to 1 and min_variance above 0, but got {lr} and {min_variance}"
            )
        super().__init__(params, {"lr": lr, "min_variance": min_variance})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch overloads it
        """Update every mixture whose log-likelihood has a gradient.

        Raises:
            ValueError: a parameter is not a mixture.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _update(parameter, -parameter.grad, group["lr"], group["min_variance"])
        return loss


def _update(mixtures: Tensor, gradient: Tensor, rate: float, min_variance: float) -> None:
    """
    Args:
        mixtures: float [mixtures, gaussians, 1 + 2 * features].
        gradient: of the log-likelihood, times any factor.
        rate: part of the way to go.
        min_variance: of a Gaussian.
    """
    if mixtures.dim() != 3 or mixtures.shape[2] % 2 == 0:
        raise ValueError(
            f"ExpectationMaximization wants mixtures as [mixtures, gaussians, 1 + 2 * features], but got {list(mixtures.shape)}; "
            "use model=gaussian_mixtures, or another optimizer"
        )
    size = mixtures.shape[2] // 2
    _, means, variances = torch.split(mixtures, [1, size, size], dim=2)
    counts, to_means, to_variances = torch.split(gradient, [1, size, size], dim=2)
    is_used = (counts > 1e-6 * counts.sum(dim=1, keepdim=True)) & (counts > 0)
    divisor = torch.where(is_used, counts, 1.0)
    shift = variances * to_means / divisor
    new_variances = variances + 2 * variances.square() * to_variances / divisor - shift.square()
    new_weights = (divisor / torch.where(is_used, counts, 0.0).sum(dim=1, keepdim=True).clamp_min(1e-30)).log()
    new = torch.cat([new_weights, means + shift, new_variances.clamp_min(min_variance)], dim=2)
    mixtures.lerp_(torch.where(is_used, new, mixtures), rate)
    mixtures[:, :, :1] -= mixtures[:, :, :1].logsumexp(dim=1, keepdim=True)
