"""Decides which trials of a sweep stop early: ASHA, Hyperband or the median rule, by Optuna's pruners."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner

from experiments.core.files.read_file import MissingFileError
from experiments.sweep.templates import read_templates

MEDIAN_STARTUP = 5
"""Points that must finish before the median pruner compares with them."""
UNDECIDED = NopPruner()
"""Used instead of Hyperband until the first finished point shows how many steps a trial has."""


def make_pruner(pruner: Mapping[str, Any] | None, max_steps: int | None) -> BasePruner:
    """
    Args:
        pruner: by the keys of `experiments.config.schema.PrunerSchema`; None: nothing is pruned.
        max_steps: length of the longest trial; None while it is unknown.
    """
    if pruner is None:
        return NopPruner()
    first, factor = pruner["first_step"], pruner["factor"]
    if pruner["name"] == "asha":
        return SuccessiveHalvingPruner(min_resource=first, reduction_factor=factor)
    if pruner["name"] == "hyperband":
        if max_steps is None:
            return UNDECIDED
        return HyperbandPruner(min_resource=first, max_resource=max_steps, reduction_factor=factor)
    return MedianPruner(n_startup_trials=MEDIAN_STARTUP, n_warmup_steps=first)


def read_max_steps(folder: Path) -> int | None:
    """Length of the longest trial; None if lengths are not given in steps."""
    try:
        lengths = [template["config"]["max_steps"] for template in read_templates(folder)]
    except MissingFileError:
        return None
    return None if None in lengths else max(lengths)
