"""Strategies that model the results so far, by Optuna's samplers."""

from __future__ import annotations

import random
import warnings
from typing import Any

from experiments.sweep.space import Interval, Space, is_conditional
from experiments.sweep.strategies.base import Strategy


class ModelBased(Strategy):
    """Asks a sampler of Optuna. The study, which `experiments.sweep.study` keeps, has what `tell` would tell it."""

    def __init__(self, seed: int = 0, startup_points: int = 10) -> None:
        """
        Args:
            seed: of all its random numbers.
            startup_points: random points before it uses its model.
        """
        self.seed, self.startup_points = seed, startup_points

    def make_sampler(self, space: Space, number: int) -> Any:
        """Make the `optuna.samplers.BaseSampler` for the trial with a number; its seed follows from that number."""
        from optuna.exceptions import ExperimentalWarning

        seed = random.Random(f"{self.seed}/{number}").getrandbits(31)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return self._make(space, seed)

    def _make(self, space: Space, seed: int) -> Any:
        raise NotImplementedError


class Tpe(ModelBased):
    """Tree-structured Parzen estimators. Source: Bergstra et al. 2011, "Algorithms for hyper-parameter optimization"."""

    is_component = True

    def _make(self, space: Space, seed: int) -> Any:
        from optuna.samplers import TPESampler

        # constant_liar treats running trials as bad, so that concurrent points differ
        return TPESampler(
            n_startup_trials=self.startup_points, seed=seed, multivariate=True, group=is_conditional(space),
            constant_liar=True,
        )  # fmt: skip


class CmaEs(ModelBased):
    """Covariance matrix adaptation evolution strategy. Source: Hansen 2016, arXiv:1604.00772."""

    is_component = True

    def _make(self, space: Space, seed: int) -> Any:
        from optuna.samplers import CmaEsSampler

        margin = any(isinstance(dimension, Interval) and dimension.count() is not None for dimension in space.values())
        return CmaEsSampler(
            n_startup_trials=self.startup_points, seed=seed, warn_independent_sampling=False, with_margin=margin
        )


class GaussianProcess(ModelBased):
    """Bayesian optimisation with a Gaussian process, by Optuna's `GPSampler`."""

    is_component = True

    def _make(self, space: Space, seed: int) -> Any:
        from optuna.samplers import GPSampler

        return GPSampler(n_startup_trials=self.startup_points, seed=seed, warn_independent_sampling=False)
