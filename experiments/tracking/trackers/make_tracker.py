"""Makes the trackers that a configuration names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from experiments.components.instantiate import instantiate
from experiments.core.errors import InputError
from experiments.tracking.store_uri import StoreError
from experiments.tracking.trackers.base import Tracker
from experiments.trial.trial import Trial

MLFLOW = "mlflow"
DEFAULT: Mapping[str, Mapping[str, Any]] = {MLFLOW: {"_target_": "experiments.tracking.trackers.mlflow.Mlflow"}}
"""Of a configuration that names no tracker, such as one from before trackers were components."""


def list_trackers(config: Mapping[str, Any]) -> list[str]:
    """The keys of the trackers, MLflow first."""
    labels = [*(config["tracking"].get("trackers") or DEFAULT)]
    return sorted(labels, key=lambda label: label != MLFLOW)


def make_tracker(trial: Trial, label: str, trust: Collection[str] = ()) -> Tracker:
    """Make one tracker of a run.

    Raises:
        StoreError: its name is wrong, or its code is not trusted, is missing, or refuses the values of the configuration.
    """
    if not re.fullmatch(r"[\w-]+", label):  # it is part of the name of a file
        raise StoreError(f"run {trial.folder.name!r}: {label!r} is not a name of a tracker", is_permanent=True)
    node = (trial.config["tracking"].get("trackers") or DEFAULT)[label]
    try:
        tracker: Tracker = instantiate(dict(node), f"tracking.trackers.{label}", trust, group="tracking")
    except InputError as err:
        raise StoreError(f"run {trial.folder.name!r}: {'; '.join(err.problems)}", is_permanent=True) from err
    tracker.label = label
    return tracker
