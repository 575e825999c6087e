"""Expands a point into the trials of its seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.core.errors import InputError
from experiments.sweep.ledger import LedgerState
from experiments.sweep.templates import Templates
from experiments.trial.trial import trial_id


def expand_point(
    spec: Mapping[str, Any], templates: Templates, ledger_state: LedgerState, point: int, values: dict[str, Any],
    *, may_be_wrong: bool = False,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The ledger's events for a new point: one trial per seed.

    If the sweep has a finished trial with the same configuration, the new trial reuses its result.

    Raises:
        PlanError: it cannot run; with `may_be_wrong` the attempt reports that instead.
    """
    for seed in range(spec["num_seeds"]):
        identity = _identity(templates, values, seed, may_be_wrong)
        name, twin = identity, ledger_state.entries.get(identity)
        repeat = 1
        while name in ledger_state.entries:
            repeat += 1
            name = f"{identity}-{repeat}"
        reused = {"folder": twin.id, "value": twin.value} if twin is not None and twin.state == "finished" else None
        yield {
            "trial": name, "point": point, "values": values, "seed": seed, "reused": reused,
        }  # fmt: skip


def _identity(templates: Templates, values: dict[str, Any], seed: int, may_be_wrong: bool) -> str:
    """The trial's id; for a configuration that cannot run, a hash of its values."""
    try:
        return trial_id(templates.fill(values, seed)[0])
    except InputError:
        if not may_be_wrong:
            raise
        text = json.dumps([values, seed], sort_keys=True)
        return f"wrong-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
