"""A way to distribute a training over ranks; its cost and memory follow from it. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from modules.parallel.topology import Offload, Topology

Kind = Literal["single", "data", "zero", "pipeline"]
"""How an engine splits a training: not at all, into replicas, into replicas that partition their state, into stages."""


@dataclass(frozen=True)
class ParallelLayout:
    """An engine, the topology of its ranks, and how it splits the batch."""

    engine: Kind
    topology: Topology = field(default_factory=Topology)
    stage: int = 0
    """ZeRO stage; 1 for a pipeline."""
    offload: Offload = "none"
    batch_size_per_device: int = 1
    """Examples per micro-batch."""
    num_micro_batches: int = 1
    """Per step and replica."""
