"""The defaults of the keys of a sweep spec."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from experiments.sweep.space import Space

DEFAULTS: dict[str, Any] = {
    "name": None, "description": None, "base": [], "space": {}, "points": [],
    "strategy": {"name": "grid", "seed": 0, "startup_points": 10}, "pruner": None,
    "metric": "val/accuracy_top1", "mode": "max", "num_seeds": 1, "average_over": [],
    "budget": {"max_points": None, "wall_h": None, "device_h": None}, "max_attempts": 5, "reuse": True,
}  # fmt: skip
"""An experiment that is known decides `metric` and `mode` instead (`create.fill_metric`)."""
FACTOR = 3
"""Default reduction factor of a pruner."""


def drop_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without the known keys that are null, which stands for the default; unknown keys are reported later."""
    return {key: value for key, value in values.items() if value is not None or key not in DEFAULTS}


def fill_defaults(values: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """Add the defaults of missing keys."""
    filled = {**deepcopy(DEFAULTS), **drop_nulls(values)}
    for name in ("strategy", "budget"):
        if isinstance(filled[name], dict) and "_target_" not in filled[name]:
            filled[name] = {**DEFAULTS[name], **filled[name]}
    if isinstance(filled["pruner"], dict) and "_target_" not in filled["pruner"]:
        filled["pruner"] = {"factor": FACTOR, **filled["pruner"]}
    if filled["points"] and not space and values.get("strategy") is None:
        filled["strategy"] = {**DEFAULTS["strategy"], "name": "list"}
    return filled
