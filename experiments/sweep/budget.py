"""What a sweep has spent of what it may."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from experiments.sweep.ledger import LedgerState


def device_s(standing: LedgerState, now: float) -> float:
    """Device-seconds of all attempts, those that still run among them."""
    running = sum(
        (now - entry.since) * entry.devices for entry in standing.entries.values() if entry.state == "running"
    )
    return running + sum(entry.used_s for entry in standing.entries.values())


def spent(budget: Mapping[str, Any], standing: LedgerState) -> str | None:
    """Why no further trial is begun; None while there is something left."""
    now = time.time()
    wall_h, device_h = (now - standing.opened) / 3600, device_s(standing, now) / 3600
    if standing.entries and budget["wall_h"] is not None and wall_h >= budget["wall_h"]:
        return f"sweep.budget.wall_h={budget['wall_h']} is spent"
    if budget["device_h"] is not None and device_h >= budget["device_h"]:
        return f"sweep.budget.device_h={budget['device_h']} is spent"
    return None


def may_ask(budget: Mapping[str, Any], standing: LedgerState) -> bool:
    """Whether there are points left to ask a strategy for."""
    return budget["points"] is None or len(standing.points) < budget["points"]
