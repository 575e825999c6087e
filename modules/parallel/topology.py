"""How the processes of a training are arranged. Does not import torch, so that a plan takes less than a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Degree = int | Literal["auto"]
"""Length of one axis; "auto": the number of devices divided by the other axes."""
Axis = Literal["pipe", "data", "model"]
AXES: tuple[Axis, ...] = ("pipe", "data", "model")


@dataclass(frozen=True)
class Topology:
    """A grid of ranks with the axes pipe, data, model. The model axis changes fastest, as in DeepSpeed."""

    pipe: int = 1
    """Pipeline stages, each with some of the layers."""
    data: int = 1
    """Replicas, each with a part of the global batch."""
    model: int = 1
    """Ranks that hold a slice of every split layer."""

    @property
    def world(self) -> int:
        return self.pipe * self.data * self.model

    def coordinates(self, rank: int) -> RankCoordinates:
        """Coordinates of a rank in the grid."""
        if not 0 <= rank < self.world:
            raise ValueError(f"Topology {self} has ranks 0 to {self.world - 1}, but got {rank}")
        return RankCoordinates(rank // (self.data * self.model), rank // self.model % self.data, rank % self.model)

    def rank(self, coordinates: RankCoordinates) -> int:
        """The rank at these coordinates."""
        return (coordinates.pipe * self.data + coordinates.data) * self.model + coordinates.model

    def peers(self, rank: int, axis: str) -> list[int]:
        """The ranks of this rank's group along an axis, itself included, in order."""
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


Meaning = Literal[
    "pipe", "data", "model", "stage", "offload", "partition", "deepspeed_extra",
    "num_servers", "num_backup_workers", "group_size", "max_staleness", "push_every_steps", "pull_every_steps", "correction",
    "warm_start_steps", "snapshot_every_steps", "delays_s",
]  # fmt: skip
"""What an argument of an engine means to a plan; `modules.parallel.base.Engine` describes them."""
Settings = Mapping[Meaning, str | int]
"""By meaning, the name of an engine's argument, or the value itself where it is fixed."""


def name_setting(settings: Mapping[Meaning, str | int], meaning: Meaning) -> str:
    """The key of a setting, for messages, such as ``parallel.data``."""
    name = settings.get(meaning)
    return f"parallel.{name if isinstance(name, str) else meaning}"
