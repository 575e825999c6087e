"""ASHA, Hyperband and the median rule, by Optuna's pruners."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.core.files.read_file import MissingFileError
from experiments.sweep.pruners.base import Pruner
from experiments.sweep.templates import read_templates

MEDIAN_STARTUP = 5
"""Points that must finish before the median pruner compares with them."""


class OptunaPruner(Pruner):
    """A rule of Optuna. It judges the study that `experiments.sweep.study` keeps, and may write rungs to it."""

    def __init__(self, first_step: int, factor: int = 3) -> None:
        """
        Args:
            first_step: steps of the first rung; no trial is stopped before it.
            factor: one in ``factor`` trials continues to the next rung, which has ``factor`` times as many steps.
        """
        self.first_step, self.factor = first_step, factor

    def make(self, max_steps: int | None) -> Any:
        """Make the `optuna.pruners.BasePruner`; None if it needs the length of the longest trial, and ``max_steps`` is None."""
        raise NotImplementedError


class Asha(OptunaPruner):
    """Asynchronous successive halving. Source: Li et al. 2020, arXiv:1810.05934."""

    is_component = True

    def make(self, max_steps: int | None) -> Any:
        from optuna.pruners import SuccessiveHalvingPruner

        return SuccessiveHalvingPruner(min_resource=self.first_step, reduction_factor=self.factor)


class Hyperband(OptunaPruner):
    """Successive halving with several first rungs. Source: Li et al. 2018, arXiv:1603.06560."""

    is_component = True

    def make(self, max_steps: int | None) -> Any:
        from optuna.pruners import HyperbandPruner

        if max_steps is None:
            return None
        return HyperbandPruner(min_resource=self.first_step, max_resource=max_steps, reduction_factor=self.factor)


class Median(OptunaPruner):
    """Stops a trial whose best value is below the median of the others at the same step. Source: Golovin et al. 2017, Vizier."""

    is_component = True

    def make(self, max_steps: int | None) -> Any:
        from optuna.pruners import MedianPruner

        return MedianPruner(n_startup_trials=MEDIAN_STARTUP, n_warmup_steps=self.first_step)


def read_max_steps(folder: Path) -> int | None:
    """Length of the longest trial; None if lengths are not given in steps."""
    try:
        lengths = [template["config"]["max_steps"] for template in read_templates(folder)]
    except MissingFileError:
        return None
    return None if None in lengths else max(lengths)
