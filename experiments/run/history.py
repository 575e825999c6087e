"""What the journals of earlier attempts hold for the attempt that resumes the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from experiments.run import journal
from experiments.run.metrics import DELIVERED_STEP


@dataclass
class PreviousAttempts:
    """Totals over all earlier attempts."""

    digests: dict[str, str] = field(default_factory=dict)
    """Of the splits of the data, by name of the split."""
    step: int = 0
    """The furthest step that was logged."""
    device_h: float = 0.0
    cpu_s: float = 0.0
    energy_wh: float = 0.0
    delivered_step: int | None = None
    """The step that the run would have delivered, as logged; None if it was not logged."""
    wasted_steps: int = 0
    """Steps that had to be repeated."""


def read_last_step(path: Path) -> int:
    """The last step in the journal of an attempt; 0 before its first event."""
    events, _ = journal.read(path)
    return max((event["step"] for event in events if event["event"] in ("metrics", "state")), default=0)


def read_previous_attempts(folder: Path, attempt: int) -> PreviousAttempts:
    """Read the journals of all other attempts. Repeated steps count too: their cost was paid.

    Args:
        folder: of the run.
        attempt: number of the attempt that begins.
    """
    previous = PreviousAttempts()
    for path in journal.journals(folder):
        if path.parent.name != str(attempt):
            for events, _ in journal.read_blocks(path):
                for event in events:
                    _add(previous, event)
    return previous


def _add(previous: PreviousAttempts, event: journal.Event) -> None:
    if event["event"] == "data":
        previous.digests[event["split"]] = event["digest"]
    elif event["event"] == "metrics":
        metrics = event["metrics"]
        if "perf/step_time_ms" in metrics:
            previous.step = max(previous.step, event["step"])
        if DELIVERED_STEP in metrics:
            previous.delivered_step = int(metrics[DELIVERED_STEP])
        previous.device_h = metrics.get("cost/device_h", previous.device_h)
        previous.cpu_s = metrics.get("cost/cpu_s", previous.cpu_s)
        previous.energy_wh = metrics.get("cost/energy_wh", previous.energy_wh)
        previous.wasted_steps = int(metrics.get("cost/wasted_steps", previous.wasted_steps))
