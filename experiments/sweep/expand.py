"""Expands a point into its trials: one for each seed and for each value of the keys that are averaged over."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from experiments.core.errors import InputError
from experiments.sweep.ledger import LedgerState
from experiments.sweep.space import Choice, Space
from experiments.sweep.space_parser import parse
from experiments.sweep.templates import Templates
from experiments.trial.trial import trial_id


def expand_point(
    spec: Mapping[str, Any], templates: Templates, ledger_state: LedgerState, point: int, values: dict[str, Any],
    *, may_be_wrong: bool = False,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The ledger's events for a new point: one trial per seed and per value of `average_over`.

    If the sweep has a finished trial with the same configuration, the new trial reuses its result.

    Raises:
        PlanError: it cannot run; with `may_be_wrong` the attempt reports that instead.
    """
    for averaged, seed in product(list_averaged(spec), range(spec["num_seeds"])):
        own = {**values, **averaged}
        identity = _identity(templates, own, seed, may_be_wrong)
        name, twin = identity, ledger_state.entries.get(identity)
        repeat = 1
        while name in ledger_state.entries:
            repeat += 1
            name = f"{identity}-{repeat}"
        reused = (
            {"folder": twin.reused or twin.id, "value": twin.value}
            if twin is not None and twin.state == "finished"
            else None
        )
        yield {
            "trial": name, "point": point, "values": own, "seed": seed, "reused": reused,
        }  # fmt: skip


def list_averaged(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All combinations of values of the keys in `average_over`; one empty map without such keys."""
    keys = spec["average_over"]
    if not keys:
        return [{}]
    dimensions = parse({key: spec["space"][key] for key in keys})
    options = [dimension.options for dimension in dimensions.values() if isinstance(dimension, Choice)]
    return [dict(zip(dimensions, values, strict=True)) for values in product(*options)]


def count_trials_per_point(spec: Mapping[str, Any]) -> int:
    """The number of trials whose mean is the value of a point."""
    return len(list_averaged(spec)) * int(spec["num_seeds"])


def select_point(spec: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies the point of a trial: its values without those that are averaged over."""
    return {key: value for key, value in values.items() if key not in spec["average_over"]}


def select_space(spec: Mapping[str, Any], space: Space) -> Space:
    """The space from which a strategy chooses points: without the keys that are averaged over."""
    return {key: dimension for key, dimension in space.items() if key not in spec["average_over"]}


def _identity(templates: Templates, values: dict[str, Any], seed: int, may_be_wrong: bool) -> str:
    """The trial's id; for a configuration that cannot run, a hash of its values."""
    try:
        return trial_id(templates.fill(values, seed)[0])
    except InputError:
        if not may_be_wrong:
            raise
        text = json.dumps([values, seed], sort_keys=True)
        return f"wrong-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
