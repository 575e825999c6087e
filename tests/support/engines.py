"""Small trainings on synthetic data, for tests of any engine and topology."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import AdamW, Optimizer

from modules.data.base import IGNORED, Batch
from modules.evaluator.accuracy import Accuracy
from modules.model.lenet import LeNet
from modules.model.mlp import Mlp
from modules.objective.cross_entropy import CrossEntropy
from modules.parallel.base import Engine, EngineConfig, Rank, TrainingSetup
from modules.parallel.data import DataParallel
from modules.parallel.deepspeed_pipeline import Pipeline
from modules.parallel.deepspeed_zero import Zero
from modules.parallel.single import Single
from modules.parallel.topology import Topology
from modules.schedule.cosine import Cosine
from tests.support.ranks import run_on_ranks
from tests.support.variants import IS_LONG

BATCH_SIZE, NUM_CLASSES, NUM_WORDS, NUM_STEPS = 8, 6, 12, 10
IMAGE_SHAPES: dict[str, tuple[int, ...]] = {
    "mlp": (5,), "lenet": (1, 6, 6), "alexnet": (1, 15, 16), "inception_v1": (1, 6, 7), "inception_v3": (1, 20, 21)
}  # fmt: skip
PADDED = "gpt_padded"
"""A language model on texts of different lengths, with a mean over all tokens."""
IMAGE_MODELS = ("alexnet", "inception_v1", "inception_v3")


@dataclass(frozen=True)
class Mode:
    """An engine and its topology."""

    name: str
    topology: Topology = field(default_factory=Topology)
    stage: int = 0
    offload: str = "none"
    partition: Any = "parameters"

    def engine(self) -> Engine:
        if self.name == "single":
            return Single()
        if self.name.startswith("data"):
            return DataParallel(self.topology.data)
        if self.topology.pipe > 1 or self.name.startswith("pipeline"):
            degrees = (self.topology.pipe, self.topology.data, self.topology.model)
            return Pipeline(*degrees, partition=self.partition, deepspeed_extra={})
        return Zero(self.stage, self.offload, self.topology.data, self.topology.model, {})  # type: ignore[arg-type]

    def __str__(self) -> str:
        return self.name


MODES = {
    mode.name: mode
    for mode in (
        Mode("single"),
        Mode("data", Topology(data=2)),
        Mode("data_4", Topology(data=4)),
        Mode("zero0", Topology(data=2)),
        Mode("zero1", Topology(data=2), stage=1),
        Mode("zero1_4", Topology(data=4), stage=1),
        Mode("zero2", Topology(data=2), stage=2),
        Mode("zero3", Topology(data=2), stage=3),
        Mode("zero3_offload", Topology(data=2), stage=3, offload="weights_and_optimizer"),
        Mode("pipeline", Topology(pipe=2)),
        Mode("pipeline_3", Topology(pipe=3)),
        Mode("model", Topology(model=2)),
        Mode("pipeline_data", Topology(pipe=2, data=2)),
        Mode("model_data", Topology(data=2, model=2), stage=1),
        Mode("three_d", Topology(pipe=2, data=2, model=2)),
    )
}


@dataclass(frozen=True)
class Task:
    """A training; it gives the same numbers in every mode."""

    model: str
    num_steps: int = NUM_STEPS
    first_step: int = 0
    num_accumulation: int = 4
    grad_clip_norm: float | None = 0.1
    precision: Any = "fp32"
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = field(default=functools.partial(AdamW, lr=1e-2))
    load: Path | None = None
    save: Path | None = None
    save_after: int | None = None
    """Number of steps before the state is saved; None: all."""


@dataclass
class TrainingResult:
    """Results of one rank."""

    losses: list[float]
    norms: list[float]
    evaluation: dict[str, float]
    weights: dict[str, NDArray[np.float32]]


def make_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "mlp":
        return Mlp(num_features=5, num_classes=NUM_CLASSES, hidden_sizes=[8, 6], dropout_prob=0.0)
    if name == "lenet":
        return LeNet([1, 6, 6], NUM_CLASSES, conv_channels=[2, 3], hidden_size=8, dropout_prob=0.0)
    if name in IMAGE_MODELS:
        return _make_image_model(name)
    from modules.model.deep_lstm import DeepLstm
    from modules.model.gpt import Gpt

    if name == "deep_lstm":
        return DeepLstm(vocab_size=NUM_WORDS, hidden_size=8, num_layers=3, dropout_prob=0.0, init_scale=0.1)
    return Gpt(
        vocab_size=NUM_WORDS,
        context_tokens=7,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        hidden_size=16,
        ff_size=24,
        tie_embeddings=name == "gpt_tied",
        dropout_prob=0.0,
        recompute=False,
    )


def _make_image_model(name: str) -> nn.Module:
    from modules.model.alexnet import AlexNet
    from modules.model.inception_v1 import InceptionV1
    from modules.model.inception_v3 import InceptionV3

    shape = list(IMAGE_SHAPES[name])
    if name == "alexnet":
        return AlexNet(
            shape, NUM_CLASSES, conv_channels=[4, 6, 8, 4, 2], num_groups=2, stem_size=3, stem_stride=1, stem_padding=1,
            dense_size=8, response_norm=True, dropout_prob=0.0, init_std=None,
        )  # fmt: skip
    if name == "inception_v1":
        return InceptionV1(shape, NUM_CLASSES, 0.01, 3, 1, 0, dropout_prob=0.0, aux_dropout_prob=0.0)
    return InceptionV3(shape, NUM_CLASSES, 0.01, stem_stride=1, stem_pools=0, dropout_prob=0.0)


def make_objective(name: str) -> CrossEntropy:
    return CrossEntropy(mean_over="tokens" if name == PADDED else "examples")


def make_batch(name: str, step: int, size: int = BATCH_SIZE) -> Batch:
    generator = torch.Generator().manual_seed(1000 + step % 3)  # three distinct batches, so that the loss falls
    if name in IMAGE_SHAPES:
        shape = IMAGE_SHAPES[name]
        targets = torch.randint(NUM_CLASSES, (size,), generator=generator)
        inputs = torch.randn(size, *shape, generator=generator) + targets.reshape(-1, *[1] * len(shape)) / 3
        return inputs, targets
    words = torch.randint(NUM_WORDS, (size, 8), generator=generator).cumsum(1) % NUM_WORDS
    inputs, targets = words[:, :-1], words[:, 1:]
    if name == PADDED:  # the first texts are short, so micro-batches and replicas have different numbers of tokens
        lengths = torch.arange(size)[:, None] % 7 + 1
        targets = targets.where(torch.arange(7) < lengths, IGNORED)
    return inputs, targets


def train_each(rank: Rank, mode: Mode, tasks: list[Task]) -> list[TrainingResult]:
    """Run several trainings in the same processes, because the start of a process takes longer than a training."""
    return [train(rank, mode, task) for task in tasks]


MODELS = ("mlp", "lenet", "alexnet", "deep_lstm", "gpt", "gpt_tied", PADDED)


FEW_MODELS = ("mlp", "gpt", "gpt_tied")
COMBINED_MODES = ("zero3_offload", "three_d")
"""The slowest. What each model needs of them, other modes test: zero3, and every two of the axes."""


@functools.cache
def train_all_models(mode: str) -> dict[str, TrainingResult]:
    """Train every model, or a few in a combined mode, and return the results of the first rank; cached."""
    models = FEW_MODELS if mode in COMBINED_MODES and not IS_LONG else MODELS
    tasks = [Task(model) for model in models]
    results = run_on_ranks(MODES[mode].topology.world, train_each, MODES[mode], tasks)
    return dict(zip(models, results[0], strict=True))


def train(rank: Rank, mode: Mode, task: Task) -> TrainingResult:
    """Train from scratch or from a saved state, and evaluate on 11 examples in batches of 2 per replica."""
    engine, topology = mode.engine(), mode.topology
    setup = TrainingSetup(
        make_model(task.model), make_objective(task.model), task.optimizer, Cosine(warmup_steps=2),
        example=lambda size: make_batch(task.model, 0, size),
    )  # fmt: skip
    per_replica = BATCH_SIZE // topology.data
    engine_config = EngineConfig(
        num_steps=max(NUM_STEPS, task.num_steps),
        num_accumulation=task.num_accumulation // topology.data,
        grad_clip_norm=task.grad_clip_norm,
        precision=task.precision,
        compile=False,
        device="cpu",
        batch_size_per_device=BATCH_SIZE // task.num_accumulation,
        topology=topology,
        rank=rank,
    )
    engine.prepare(setup, engine_config)
    if task.load is not None:
        engine.load(task.load)
    coordinates = topology.coordinates(rank.number)
    losses, norms = [], []
    for step in range(task.first_step, task.num_steps):
        inputs, targets = make_batch(task.model, step)
        own = slice(coordinates.data * per_replica, (coordinates.data + 1) * per_replica)
        metrics = engine.train_step((inputs[own], targets[own]), step)
        losses.append(float(metrics["loss_nats"]))
        norms.append(float(metrics.get("grad_norm", 0.0)))
        if task.save is not None and step + 1 == (task.save_after or task.num_steps):
            write = engine.snapshot()
            if write is not None:
                task.save.mkdir()
                write(task.save)
            engine.gather(0.0)  # wait until it is written
    evaluation = engine.evaluate(
        _make_evaluation_batches(task.model, coordinates.data, topology.data), Accuracy([1, 2])
    )
    return TrainingResult(
        losses, norms, evaluation, {name: tensor.numpy() for name, tensor in engine.weights().items()}
    )


def _make_evaluation_batches(model: str, replica: int, replicas: int) -> list[tuple[Batch, bool]]:
    """11 examples in rounds of 2 per replica; in the last round some replicas get only a padding batch."""
    inputs, targets = make_batch(model, 999, 11)
    batches: list[tuple[Batch, bool]] = []
    for first in range(0, 11, 2 * replicas):
        own = slice(min(11, first + 2 * replica), min(11, first + 2 * replica + 2))
        is_counted = own.stop > own.start
        own = own if is_counted else slice(0, 1)
        batches.append(((inputs[own], targets[own]), is_counted))
    return batches
