"""A training step does not wait for the device: it reads no value of a tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.train.loading.device_copy import copy_ahead
from modules.data.base import Tree
from modules.gradient.centralize import Centralize
from modules.objective.cross_entropy import CrossEntropy
from modules.parallel.base import EngineConfig, TrainingSetup
from modules.parallel.data import DataParallel
from modules.parallel.single import Single
from modules.schedule.cosine import Cosine
from modules.task.base import Loss, Phase, StepContext, Task
from tests.support.engines import PADDED, make_batch, make_model

READS = ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__", "__index__")


class Halves(Task):
    """Two phases, and noise."""

    needs = ("whole_model", "phases")

    def phases(self) -> tuple[Phase, ...]:
        return Phase("first", ("0.",)), Phase("second", ("1.",))

    def loss(self, model: Any, batch: Tree, context: StepContext) -> Loss:
        loss = (model(batch["x"]) - context.randn(len(batch["x"]), 2, device=batch["x"].device)).square().mean()
        return Loss(loss, {context.phase: loss.detach()})

    def weight(self, batch: Tree) -> Tensor:
        total: Tensor = batch["x"].abs().sum()
        return total


class _ReadValues(TorchDispatchMode):  # type: ignore[no-untyped-call]  # no types in torch 2.13
    """Counts operations that read a value, or whose shape depends on one."""

    def __init__(self, reads: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reads = reads

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function)
        if name.startswith(("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.unique")):
            self.reads.append(name)
        return function(*args, **(kwargs or {}))


def _counted(read: Callable[..., Any], name: str, reads: list[str]) -> Callable[..., Any]:
    def count(*args: Any) -> Any:
        reads.append(name)
        return read(*args)

    return count


@contextmanager
def counted_reads() -> Iterator[list[str]]:
    reads: list[str] = []
    with pytest.MonkeyPatch.context() as patch, _ReadValues(reads):
        for name in READS:
            patch.setattr(Tensor, name, _counted(getattr(Tensor, name), name, reads))
        yield reads


def make_engine(device: str, task: Task | None) -> tuple[Single, list[Tree]]:
    model = make_model(PADDED) if task is None else nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    setup = TrainingSetup(
        model, CrossEntropy(mean_over="tokens"), partial(SGD, lr=0.1, momentum=0.9), Cosine(warmup_steps=2),
        task=task, gradient_transforms=[Centralize()],
    )  # fmt: skip
    engine = Single()
    engine.prepare(setup, EngineConfig(9, 2, 0.5, "fp32", False, device, 4))  # type: ignore[arg-type]
    batches = [make_batch(PADDED, step) if task is None else {"x": torch.randn(8, 3)} for step in range(4)]
    return engine, batches


@pytest.mark.parametrize("task", [None, Halves()], ids=["weights of tokens", "phases with noise"])
def test_a_step_reads_no_value(task: Task | None) -> None:
    engine, batches = make_engine("cpu", task)
    with counted_reads() as reads:
        assert float(torch.ones(())) == 1.0
        assert reads, "reads are counted"
        reads.clear()
        metrics = [engine.train_step(batch, step) for step, batch in enumerate(batches)]
    assert reads == []
    assert all(each for each in metrics)


def test_replicas_that_average_gradients_themselves_read_no_value_if_all_parameters_are_used() -> None:
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    engine: Any = DataParallel("auto")
    engine.parameters, engine.numbers = parameters, {id(each): number for number, each in enumerate(parameters)}
    engine.all_used, engine.forward = torch.ones(3), SimpleNamespace(device=torch.device("cpu"))
    engine.sparse, engine.is_reported = set(), True
    averaged: list[int] = []
    engine.ranks = SimpleNamespace(
        mean_and_sum=lambda metrics, vector: (metrics, 2 * vector),
        average_in_place=lambda gradients: averaged.append(len(gradients)),
    )
    update: Any = SimpleNamespace(parameters=parameters[1:])
    for is_used, count in (True, 2), (False, 1):
        for parameter in parameters:
            parameter.grad = torch.ones(2)
        if not is_used:
            parameters[2].grad = None
        with counted_reads() as reads:
            engine._average_gradients({}, update)
        assert bool(reads) is not is_used, "only an unused parameter is worth a wait"
        assert averaged.pop() == count


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("task", [None, Halves()], ids=["weights of tokens", "phases with noise"])
def test_a_step_on_a_gpu_does_not_wait(task: Task | None) -> None:
    engine, batches = make_engine("cuda", task)
    metrics = []
    try:
        for step, batch in enumerate(copy_ahead(iter(batches), torch.device("cuda"))):
            torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")  # the first steps allocate memory
            metrics.append(engine.train_step(batch, step))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(bool(torch.isfinite(value)) for each in metrics for value in each.values())
