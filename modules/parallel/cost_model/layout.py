"""One way to share a training out over ranks: all that its cost and its memory depend on. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from modules.parallel.topology import Offload, Topology


@dataclass(frozen=True)
class ParallelLayout:
    """An engine, the arrangement of its ranks, and how it cuts the batch."""

    engine: Literal["single", "data", "zero", "pipeline"]
    topology: Topology = field(default_factory=Topology)
    stage: int = 0
    """Of ZeRO; a pipeline has 1."""
    offload: Offload = "none"
    batch_size_per_device: int = 1
    """Examples of a micro-batch."""
    num_micro_batches: int = 1
    """Of one step and one replica."""
