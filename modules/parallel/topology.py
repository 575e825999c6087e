"""How the processes of one training are arranged; imports no torch, so that a plan can say it in a second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Degree = int | Literal["auto"]
"""Length of one axis; "auto": what the other axes leave of the hardware's devices."""
AXES = ("pipe", "data", "model")


@dataclass(frozen=True)
class Topology:
    """A grid of ranks with the axes pipe, data, model, of which the last runs fastest, as in DeepSpeed's own."""

    pipe: int = 1
    """Stages of a pipeline, each with a part of the layers."""
    data: int = 1
    """Replicas, each with a share of the global batch."""
    model: int = 1
    """Ranks that hold a slice of every layer that is split."""

    @property
    def world(self) -> int:
        return self.pipe * self.data * self.model

    def coordinates(self, rank: int) -> RankCoordinates:
        """Where a rank stands."""
        if not 0 <= rank < self.world:
            raise ValueError(f"Topology {self} has ranks 0 to {self.world - 1}, but got {rank}")
        return RankCoordinates(rank // (self.data * self.model), rank // self.model % self.data, rank % self.model)

    def rank(self, coordinates: RankCoordinates) -> int:
        """The rank that stands at a place."""
        return (coordinates.pipe * self.data + coordinates.data) * self.model + coordinates.model

    def peers(self, rank: int, axis: str) -> list[int]:
        """The ranks that differ from this one along one axis only, itself included, in order."""
        own = self.coordinates(rank)
        return [
            self.rank(RankCoordinates(**{**vars(own), axis: number}))
            for number in range({"pipe": self.pipe, "data": self.data, "model": self.model}[axis])
        ]

    def __str__(self) -> str:
        return f"pipe={self.pipe} x data={self.data} x model={self.model}"


@dataclass(frozen=True)
class RankCoordinates:
    """Coordinates of one rank, each counted from 0."""

    pipe: int
    data: int
    model: int


Offload = Literal["none", "optimizer", "weights_and_optimizer"]
