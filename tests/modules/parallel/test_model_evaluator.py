"""Evaluators that call the model, and sparse gradients, in the engines that support them."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, SparseAdam

from modules.data.base import Batch
from modules.evaluator.base import ModelEvaluator
from modules.model.skip_gram import SkipGram
from modules.objective.noise_contrastive import NoiseContrastive
from modules.parallel.base import EngineConfig, Rank, TrainingSetup
from modules.parallel.cost_model.optimizer_state import measure_state_bytes, measure_update_bytes
from modules.parallel.data import DataParallel
from modules.parallel.single import Single
from modules.parallel.topology import Topology
from modules.schedule.constant import Constant
from tests.support.engines import MODES, make_batch, make_model
from tests.support.ranks import run_alone, run_on_ranks

OPTIMIZERS: dict[str, Any] = {
    "SGD": partial(SGD, lr=0.5),
    "Adagrad": partial(Adagrad, lr=0.1),
    "SparseAdam": partial(SparseAdam, lr=0.1),
}


class ModelCaller:
    """Sums the model's outputs, and one of its weights at the end."""

    def setup(self, data: object) -> None:
        """Needs no data."""

    def update_with_model(self, model: nn.Module, batch: Batch) -> Tensor:
        assert not model.training
        return cast(Tensor, model(batch[0])).double().sum(0)

    def compute_with_model(self, model: nn.Module, sums: Tensor) -> dict[str, float]:
        first = next(iter(model.parameters()))
        return {"sum": float(sums[0]), "weight": float(first.double().sum())}


def evaluate(rank: Rank, name: str) -> dict[str, float]:
    mode = MODES[name]
    setup = TrainingSetup(make_model("mlp"), _cross_entropy, partial(SGD, lr=0.1), Constant())
    engine_config = EngineConfig(1, 1, None, "fp32", False, "cpu", 2, topology=mode.topology, rank=rank)
    engine = mode.engine()
    engine.prepare(setup, engine_config)
    inputs, targets = make_batch("mlp", 0, 5)
    own = [slice(0, 3), slice(3, 5)] if mode.topology.data == 1 else [[slice(0, 3)], [slice(3, 5)]][rank.number]
    evaluator: ModelEvaluator = ModelCaller()
    return engine.evaluate([((inputs[part], targets[part]), True) for part in own], evaluator)


class BatchSizeRecorder(ModelCaller):
    """Records the number of examples per call."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def update_with_model(self, model: nn.Module, batch: Batch) -> Tensor:
        self.sizes.append(len(batch[0]))
        return super().update_with_model(model, batch)


@pytest.mark.parametrize(("is_counted", "sizes"), [((True, False), [3]), ((False, True), [1, 2])])
def test_the_model_is_called_with_at_most_one_example_of_padding_batches(
    is_counted: tuple[bool, bool], sizes: list[int]
) -> None:
    engine = Single()
    engine.prepare(
        TrainingSetup(make_model("mlp"), _cross_entropy, partial(SGD, lr=0.1), Constant()),
        EngineConfig(1, 1, None, "fp32", False, "cpu", 2),
    )
    inputs, targets = make_batch("mlp", 0, 5)
    batches = [(inputs[part], targets[part]) for part in (slice(0, 3), slice(3, 5))]
    evaluator = BatchSizeRecorder()
    metrics = engine.evaluate(list(zip(batches, is_counted, strict=True)), evaluator)
    assert evaluator.sizes == sizes
    assert metrics == engine.evaluate([(batches[is_counted.index(True)], True)], ModelCaller())


def _cross_entropy(outputs: Any, targets: Any) -> tuple[Tensor, dict[str, Tensor]]:
    loss = nn.functional.cross_entropy(outputs, targets)
    return loss, {"loss_nats": loss.detach()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data", "zero0", "zero1", "zero2"])
def test_an_evaluator_that_calls_the_model_gives_the_same_metrics_with_replicas(name: str) -> None:
    expected = run_alone(evaluate, "single")
    for metrics in run_on_ranks(2, evaluate, name):
        assert metrics == pytest.approx(expected)
    assert set(expected) == {"loss_nats", "sum", "weight"}


def make_skip_grams(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    words, noise = torch.randint(12, (4, 5), generator=generator), torch.randint(12, (4, 3), generator=generator)
    pairs = torch.rand(4, 5, 3, generator=generator) < 0.6
    return (words, noise), (pairs, torch.zeros(4, 5), torch.zeros(4, 3))


def train(rank: Rank, world: int, optimizer: str, sparse: bool) -> tuple[list[float], dict[str, Any]]:
    torch.manual_seed(0)
    setup = TrainingSetup(SkipGram(12, 6, 1, sparse), NoiseContrastive(2, False), OPTIMIZERS[optimizer], Constant())
    engine_config = EngineConfig(4, 2 // world, None, "fp32", False, "cpu", 2, topology=Topology(data=world), rank=rank)
    engine = Single() if world == 1 else DataParallel(world)
    engine.prepare(setup, engine_config)
    losses = []
    for step in range(4):
        inputs, targets = make_skip_grams(step)
        own = slice(rank.number * 4 // world, (rank.number + 1) * 4 // world)
        cut: Any = tuple(tuple(tensor[own] for tensor in part) for part in (inputs, targets))
        losses.append(float(engine.train_step(cut, step)["loss_nats"]))
    return losses, {name: weight.numpy() for name, weight in engine.weights().items()}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_sparse_gradients_train_alike_in_one_process_and_with_replicas(optimizer: str) -> None:
    ((expected, weights),) = run_on_ranks(1, train, 1, optimizer, True)
    results = run_on_ranks(2, train, 2, optimizer, True)
    assert results[0][0] == results[1][0] == pytest.approx(expected, rel=1e-6)
    assert expected[0] > 0
    for name, weight in weights.items():
        assert results[0][1][name] == pytest.approx(weight, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("optimizer", ["SGD", "Adagrad"])
def test_sparse_gradients_train_like_dense_gradients(optimizer: str) -> None:
    losses, weights = train(Rank(), 1, optimizer, sparse=True)
    expected, expected_weights = train(Rank(), 1, optimizer, sparse=False)
    assert losses == pytest.approx(expected, rel=1e-6)
    assert all(weights[name] == pytest.approx(weight, rel=1e-5, abs=1e-7) for name, weight in expected_weights.items())


@pytest.mark.parametrize(("optimizer", "copies"), [("SGD", 0), ("Adagrad", 1), ("SparseAdam", 2)])
def test_the_plan_estimates_the_memory_of_optimizers_for_sparse_gradients(optimizer: str, copies: int) -> None:
    with torch.device("meta"):
        parameters = [nn.Parameter(torch.zeros(30, 10)), nn.Parameter(torch.zeros(50))]
        state_bytes = measure_state_bytes(OPTIMIZERS[optimizer], parameters)
        assert measure_update_bytes(OPTIMIZERS[optimizer]) >= 0
    for size, parameter in zip(state_bytes, parameters, strict=True):
        assert copies * parameter.nbytes <= size <= copies * parameter.nbytes + 8
