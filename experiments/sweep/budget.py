"""The budget of a sweep: what its trials have used, and whether more may start."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from experiments.sweep.ledger import LedgerState


def sum_device_s(ledger_state: LedgerState, now: float) -> float:
    """Device-seconds of all attempts, including running ones."""
    running = sum(
        max(0.0, now - entry.since) * entry.devices
        for entry in ledger_state.entries.values()
        if entry.state == "running"
    )
    return running + sum(entry.used_s for entry in ledger_state.entries.values())


def find_spent_limit(budget: Mapping[str, Any], ledger_state: LedgerState) -> str | None:
    """The limit that is reached; None if there is none."""
    now = time.time()
    wall_h, device_h = (now - ledger_state.opened) / 3600, sum_device_s(ledger_state, now) / 3600
    if ledger_state.entries and budget["wall_h"] is not None and wall_h >= budget["wall_h"]:
        return f"sweep.budget.wall_h={budget['wall_h']} is spent"
    if budget["device_h"] is not None and device_h >= budget["device_h"]:
        return f"sweep.budget.device_h={budget['device_h']} is spent"
    return None


def has_points_left(budget: Mapping[str, Any], ledger_state: LedgerState) -> bool:
    """Whether the strategy may choose more points."""
    return budget["max_points"] is None or len(ledger_state.points) < budget["max_points"]
