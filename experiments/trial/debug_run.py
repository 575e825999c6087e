"""`fast_dev_run` and `overfit_batches`: runs that try the code, and whose metrics are no result. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FAST_STEPS = 2
"""Steps of `fast_dev_run`, and batches of each of its evaluations."""


def shorten(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run of two steps with `fast_dev_run`; without it, the same one.

    Its rules are those of the whole training, so check them first.
    """
    if not config.get("fast_dev_run"):
        return config
    steps = config["max_steps"]
    return {
        **config,
        "max_steps": FAST_STEPS if steps is None else min(steps, FAST_STEPS),
        "max_epochs": None,
        "eval_every_steps": 1,
        "log_every_steps": 1,
        "checkpoint": {**config["checkpoint"], "every_steps": 1},
    }


def list_notes(config: Mapping[str, Any]) -> list[str]:
    """What the user has to know about the metrics of such a run."""
    notes = []
    if config.get("fast_dev_run"):
        notes.append(
            f"fast_dev_run=true: {FAST_STEPS} steps, and {FAST_STEPS} batches in each evaluation, to try the code; "
            "the metrics are no result"
        )
    if (count := config.get("overfit_batches")) is not None:
        batches = "batch" if count == 1 else f"{count} batches"
        notes.append(
            f"overfit_batches={count}: trains and evaluates on the same {batches}; the metrics say nothing about other data"
        )
    return notes


def wants_model(config: Mapping[str, Any]) -> bool:
    """Whether the final model of such a run is to be logged: not that of `fast_dev_run`."""
    return bool(config["tracking"].get("log_model")) and not config.get("fast_dev_run")
