"""What earlier attempts at a run have left in its journals, for the one that goes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from experiments.run import journal


@dataclass
class PreviousAttempts:
    """Sums over all earlier attempts."""

    digests: dict[str, str] = field(default_factory=dict)
    """What the splits of the data were, by name."""
    step: int = 0
    """The furthest that was logged."""
    device_h: float = 0.0
    cpu_s: float = 0.0
    energy_wh: float = 0.0
    wasted_steps: int = 0
    """Steps that had to be done again."""


def read_previous_attempts(folder: Path, attempt: int) -> PreviousAttempts:
    """Read the journals of the attempts before one.

    Args:
        folder: of the run.
        attempt: the one that begins.
    """
    found = PreviousAttempts()
    for path in journal.journals(folder):
        if path.parent.name != str(attempt):
            _read(path, found)
    return found


def _read(path: Path, found: PreviousAttempts) -> None:
    offset = 0
    while True:
        events, end = journal.read(path, offset, 1 << 20)
        if end == offset:
            return
        offset = end
        for event in events:
            if event["event"] == "data":
                found.digests[event["split"]] = event["digest"]
            elif event["event"] == "metrics":
                told = event["metrics"]
                found.step = max(found.step, event["step"]) if "perf/step_time_ms" in told else found.step
                found.device_h = told.get("cost/device_h", found.device_h)
                found.cpu_s = told.get("cost/cpu_s", found.cpu_s)
                found.energy_wh = told.get("cost/energy_wh", found.energy_wh)
                found.wasted_steps = int(told.get("cost/wasted_steps", found.wasted_steps))
