"""The contract of an engine: how one model is trained on one or many devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from modules.data.base import Tree
from modules.evaluator.base import AnyEvaluator
from modules.gradient.base import GradientTransform
from modules.objective.base import Objective
from modules.parallel.topology import Topology
from modules.schedule.base import Schedule
from modules.task.base import Phase, Task
from modules.task.supervised import Supervised, is_supervised


@dataclass(frozen=True)
class Rank:
    """One process among those of a training."""

    number: int = 0
    """From 0 to ``topology.world - 1``."""
    local_rank: int = 0
    """Rank on its node, from 0; on a machine with GPUs, the number of its GPU."""
    local_world_size: int = 1
    """Ranks on its node."""
    rendezvous: str = ""
    """Rendezvous address, as torch.distributed's ``init_method``: ``file:///...`` or ``tcp://host:port``."""
    listener: int | None = None
    """File descriptor of rank 0's listening socket, so that no other process can take the port; None: rank 0 opens one."""
    secret: str = field(default="", repr=False)
    """Every rank shows that it knows it before it may use a ``tcp://`` rendezvous."""


@dataclass(frozen=True)
class EngineConfig:
    """Settings that every engine takes; the plan fills them in."""

    num_steps: int
    num_accumulation: int
    """Micro-batches per step on this rank; their gradients are averaged."""
    grad_clip_norm: float | None
    precision: Literal["fp32", "bf16", "fp16"]
    compile: bool
    device: Literal["auto", "cpu", "cuda"]
    batch_size_per_device: int
    """Examples per micro-batch."""
    topology: Topology = field(default_factory=Topology)
    rank: Rank = field(default_factory=Rank)
    sync_every_steps: tuple[int, ...] = ()
    """Asynchronous replicas synchronise at each step that one of these numbers divides, so that it can be evaluated or saved."""
    folder: Path = Path()
    """Where the processes of this training exchange files; all nodes see it."""
    seed: int = 0
    """Of the random numbers that a task draws."""
    channels_last: bool = False
    """Store images in memory as [batch, height, width, channels]; their shape does not change."""


Fetch = Callable[[int, int, int], Tree]
"""``fetch(step, index, num_shards)`` reads one shard of a global batch and sets its random state."""


@dataclass
class TrainingSetup:
    """What is trained, and how: a model with its objective, optimizer and schedule."""

    model: nn.Module
    objective: Objective
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    schedule: Schedule
    example: Callable[[int], Tree] | None = None
    """Makes a batch of zeros with so many examples, for a trial pass."""
    task: Task | None = None
    """The computation of a step; None: supervised learning with the objective."""
    gradient_transforms: Sequence[GradientTransform] = ()
    """What changes the gradients before they are clipped, in this order."""

    def get_task(self) -> Task:
        """The task, which knows the objective."""
        task = self.task or Supervised()
        task.objective = self.objective
        return task


class Engine(Protocol):
    """Trains one model on all ranks of a topology. All ranks call each method, in the same order.

    A class may declare what a plan has to know about it. The plan reads these attributes from the source, so each is a plain
    tuple or dict, and inherits them from a base class:

    - ``serves``: the needs of tasks that it meets (`modules.task.base.Need`). Without it the engine trains only supervised tasks.
    - ``serves_up_to``: by need, the largest value of a setting with which it meets the need: ``{"inputs": {"model": 1}}``.
    - ``settings``: by meaning (`modules.parallel.topology.Meaning`), the name of the constructor's argument, or the value if it
      is fixed. Without it the engine uses one device.

    An engine that keeps a second copy of the weights can have a method ``refresh_weights()``. It runs after callbacks that may
    have changed the model's.

    Meanings: ``pipe``, ``data`` and ``model`` are the axes of the topology: stages, replicas, and ranks that split a layer. Each
    is a number or "auto". ``stage`` and ``offload`` are those of ZeRO. ``partition`` is how the layers are split into stages.
    ``deepspeed_extra`` holds keys of DeepSpeed's configuration. ``num_servers`` is the number of parameter servers. The other
    meanings are those of `ParameterServer`'s arguments of the same names.

    Example::

        class ShardedReplicas:
            is_component = True
            serves = ("inputs",)
            settings = {"data": "num_replicas", "stage": 3}

            def __init__(self, num_replicas: int | Literal["auto"]) -> None: ...
    """

    def prepare(self, setup: TrainingSetup, config: EngineConfig) -> None:
        """Connect to the other ranks and move the model to its devices; called once, before any other method.

        ``setup.model`` is the whole model, with the same weights on every rank.

        Raises:
            ValueError: this machine or this task cannot do what the configuration requires.
        """
        ...

    def train_step(self, batch: Tree, step: int) -> dict[str, Tensor]:
        """Make one update from this replica's shard of the global batch.

        Args:
            batch: on the CPU; its first dimension holds ``num_accumulation`` micro-batches.
            step: counted from 0.

        Returns:
            The objective's metrics and ``grad_norm`` (before clipping; only with clipping), float [] each: means over the
            global batch, the same on every rank. They stay on the device, so that the caller decides when to wait for them.
        """
        ...

    def evaluate(self, batches: Iterable[tuple[Tree, bool]], evaluator: AnyEvaluator) -> dict[str, float]:
        """Compute the evaluator's metrics and the mean objective over the examples of all replicas, in evaluation mode.

        Args:
            batches: this replica's shard, the same number of batches on every rank. False marks a padding batch, which does
                not count: it exists because all ranks compute together.
            evaluator: its sums are added up over the replicas. An evaluator that calls the model works only where each rank
                has the whole model (`compatibility.evaluator_incompatibilities`).
        """
        ...

    def snapshot(self) -> Callable[[Path], None] | None:
        """Copy everything that the next step depends on, in a form that does not depend on the topology.

        Returns:
            On rank 0 a function that writes the copy into an empty folder, without pickle; any thread may call it during
            training. On other ranks None.
        """
        ...

    def load(self, folder: Path) -> None:
        """Restore a snapshot that any engine wrote in any topology.

        In the same topology the next step is then bit for bit the step that would have followed.

        Raises:
            StateError: the snapshot is damaged or belongs to another model or optimizer; raised on every rank.
        """
        ...

    def weights(self) -> dict[str, Tensor]:
        """Gather the weights of the whole model on the CPU, by name; empty on ranks other than 0."""
        ...

    def gather(self, value: float) -> list[float]:
        """Gather one number from each rank, in rank order; all ranks get the same list."""
        ...


class ManagedEngine(Engine, Protocol):
    """An engine with further processes that it coordinates: servers hold the weights, replicas may die and come back."""

    def roles(self, topology: Topology) -> dict[str, int]:
        """Name the processes besides the coordinator, such as ``server 0`` and ``replica 1``, and the rank that supervises it."""
        ...

    def run_role(
        self, role: str, setup: TrainingSetup, config: EngineConfig, fetch: Fetch, should_stop: Callable[[], str | None]
    ) -> None:
        """Run one of these processes until the coordinator ends it.

        Args:
            role: a name from `roles`.
            setup: with the same weights in every process.
            config: as for `prepare`.
            fetch: reads the data of a replica.
            should_stop: returns a reason to stop the training, or None.
        """
        ...

    @property
    def stop_reason(self) -> str | None:
        """Why a replica asks to stop the training; None where none does."""
        ...

    def drain_at(self, done: int) -> bool:
        """Start no further work; True once all started work is done after ``done`` steps."""
        ...

    def take_metrics(self) -> dict[str, float]:
        """Metrics of servers and replicas since the last call."""
        ...

    def close(self) -> None:
        """End all these processes."""
        ...


def find_unserved(task: Task, engine: object, **settings: int) -> list[str]:
    """List what a task needs and an engine does not have.

    Other phases than one of all parameters, and a loss or an evaluation of its own, are needs, declared or not.

    Args:
        task: of the training.
        engine: which trains it.
        settings: values of the settings, by meaning, that limit what the engine serves.
    """
    serves, limits = getattr(engine, "serves", ()), getattr(engine, "serves_up_to", {})
    derived = (() if list(task.phases()) == [Phase()] else ("phases",)) + (() if is_supervised(task) else ("inputs",))
    needs = dict.fromkeys((*task.needs, *derived))
    missing = [
        need
        for need in needs
        if need not in serves or any(settings.get(name, 0) > most for name, most in limits.get(need, {}).items())
    ]
    rule = f"which the engine {type(engine).__name__} does not serve; use parallel=data"
    return [f"task {type(task).__name__} needs {', '.join(missing)}, {rule}"] if missing else []
