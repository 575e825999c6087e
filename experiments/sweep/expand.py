"""A point and its seeds -> trials."""

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
    """What the ledger is to be told of a point: a trial for each seed.

    A configuration that the sweep has already is not run again: its result stands in, where there is one.

    Raises:
        PlanError: it cannot run; with `may_be_wrong` that is left to the attempt to say.
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
    """The trial's id; of a configuration that cannot run, one that nothing else has."""
    try:
        return trial_id(templates.fill(values, seed)[0])
    except InputError:
        if not may_be_wrong:
            raise
        told = json.dumps([values, seed], sort_keys=True)
        return f"wrong-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
