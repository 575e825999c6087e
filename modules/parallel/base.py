"""The contract of an engine: how one model is trained on one or many devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from modules.data.base import Batch
from modules.evaluator.base import AnyEvaluator
from modules.objective.base import Objective
from modules.parallel.topology import Topology
from modules.schedule.base import Schedule


@dataclass(frozen=True)
class Rank:
    """Which of the processes of one training this is."""

    number: int = 0
    """From 0 to the topology's ``world - 1``."""
    on_node: int = 0
    """Counted on its node from 0: on a machine with GPUs, which of them is its."""
    per_node: int = 1
    """Ranks of its node."""
    meeting: str = ""
    """Where all ranks meet, as torch.distributed's ``init_method``: ``file:///...`` or ``tcp://host:port``."""
    listener: int | None = None
    """Of the first rank, the open socket that listens there; None: it opens one. Nobody else can take the port."""


@dataclass(frozen=True)
class EngineConfig:
    """What is asked of an engine, whichever it is; all of it stands in the plan."""

    num_steps: int
    num_accumulation: int
    """Micro-batches of one step on this rank; their gradients are averaged."""
    grad_clip_norm: float | None
    precision: Literal["fp32", "bf16", "fp16"]
    compile: bool
    device: Literal["auto", "cpu", "cuda"]
    batch_size_per_device: int
    """Examples of a micro-batch."""
    topology: Topology = field(default_factory=Topology)
    rank: Rank = field(default_factory=Rank)
    meets_every: tuple[int, ...] = ()
    """Steps are looked at whose number one of these divides: there replicas that run apart meet."""
    folder: Path = Path()
    """For what processes of this training leave for each other; all nodes see it."""
    channels_last: bool = False
    """Images lie in memory as [batch, height, width, channels]; their shape stays."""


Fetch = Callable[[int, int, int], Batch]
"""Gives, of a step's global batch, one of so many equal shares, and sets the chance that goes with it."""


@dataclass
class TrainingTask:
    """The live parts that learn together."""

    model: nn.Module
    objective: Objective
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    schedule: Schedule
    example: Callable[[int], Batch] | None = None
    """Gives a batch of zeros of a size, to try the model on."""


class Engine(Protocol):
    """Trains one model on all ranks of a topology; every method is called by all of them, at the same point."""

    def prepare(self, learner: TrainingTask, recipe: EngineConfig) -> None:
        """Meet the other ranks and put the parts on their devices; called once, before anything else.

        The learner's model is whole and has the same weights on every rank.

        Raises:
            ValueError: this machine, or these parts, cannot do what the recipe asks.
        """
        ...

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One update from this replica's share of the global batch.

        Args:
            batch: on the CPU; its first dimension is ``num_accumulation`` micro-batches long.
            step: counted from 0.

        Returns:
            The objective's metrics and ``grad_norm`` (before clipping; only where clipping is on), float [] each: means
            over the global batch, the same on every rank, left on the device so that reading them is the caller's choice.
        """
        ...

    def evaluate(self, batches: Iterable[tuple[Batch, bool]], evaluator: AnyEvaluator) -> dict[str, float]:
        """The evaluator's metrics and the objective's mean over all replicas' examples, in evaluation mode.

        Args:
            batches: this replica's share, as many batches on every rank. False marks one that does not count: it is there
                because all ranks compute in step.
            evaluator: its sums are added up over the replicas. One that asks the model is served only where every rank
                has all of it (`fits.evaluator_misfits`).
        """
        ...

    def snapshot(self) -> Callable[[Path], None] | None:
        """Copy everything that the next step depends on, whatever the topology.

        Returns:
            On rank 0, what writes the copy into an empty folder, without pickle; any thread may call it while training
            goes on. On the others None.
        """
        ...

    def load(self, folder: Path) -> None:
        """Restore what a snapshot of any engine in any topology wrote; in the same one the next step is then bit for bit
        the one that would have come.

        Raises:
            StateError: it belongs to other parts, or is damaged; the same on every rank.
        """
        ...

    def weights(self) -> dict[str, Tensor]:
        """The whole model's weights on the CPU, by name, gathered from all ranks; empty on those but rank 0."""
        ...

    def gather(self, value: float) -> list[float]:
        """One number of every rank, in their order, the same on all."""
        ...


class ManagedEngine(Engine, Protocol):
    """An engine of several processes: servers hold the weights, replicas come and go; as an `Engine` it coordinates them."""

    def roles(self, topology: Topology) -> dict[str, int]:
        """Processes beside the coordinator, such as ``server 0`` and ``replica 1``, and the rank that keeps each."""
        ...

    def play(
        self, role: str, learner: TrainingTask, recipe: EngineConfig, fetch: Fetch, told: Callable[[], str | None]
    ) -> None:
        """Be one of them until the coordinator ends it.

        Args:
            role: which.
            learner: with the same weights everywhere.
            recipe: as of `prepare`.
            fetch: gives replicas their data.
            told: why the coordinator should stop the training; None for no reason.
        """
        ...

    @property
    def asked(self) -> str | None:
        """Why one of them wants the training to stop."""
        ...

    def stops_at(self, done: int) -> bool:
        """Begin nothing further; whether all that was begun is done with this step."""
        ...

    def measures(self) -> dict[str, float]:
        """What servers and replicas did since it was asked last, by metric."""
        ...

    def close(self) -> None:
        """End all of them."""
        ...
