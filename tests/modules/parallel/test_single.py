"""The single engine: the same numbers as plain torch, and bit-identical resumes."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from modules.data.base import Batch, Tensors
from modules.parallel.base import EngineConfig, TrainingSetup
from modules.parallel.single import Single
from modules.schedule.base import Schedule

NUM_STEPS = 7
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "sgd": partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": partial(Adam, lr=0.01, amsgrad=True),
    "adamw": partial(AdamW, lr=0.01, betas=(0.8, 0.95)),
    "rmsprop": partial(RMSprop, lr=0.01, momentum=0.9, centered=True),
    "adagrad": partial(Adagrad, lr=0.1),
}


class LinearDecay(Schedule):
    def decay(self, step: int, num_steps: int) -> float:
        return 1 - step / num_steps


class Net(nn.Module):
    """Dropout, normalisation, a tied weight and buffers: everything that a saved state must cover."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.dropout = nn.Dropout(0.4)
        self.middle = nn.Linear(3, 3)
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.middle.weight
        self.last = nn.Linear(3, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.dropout(torch.relu(self.norm(self.first(inputs))))
        return cast(Tensor, self.last(self.tied(torch.relu(self.middle(hidden)))))


class MeanCrossEntropy:
    def __call__(self, outputs: Tensors, targets: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(outputs, Tensor)
        assert isinstance(targets, Tensor)
        loss = nn.functional.cross_entropy(outputs, targets)
        return loss, {"loss_nats": loss}


class Top1:
    def update(self, outputs: Tensors, targets: Tensors) -> Tensor:
        assert isinstance(outputs, Tensor)
        assert isinstance(targets, Tensor)
        return torch.stack(
            [(outputs.argmax(1) == targets).sum(), torch.tensor(len(targets), device=targets.device)]
        ).double()

    def compute(self, sums: Tensor) -> dict[str, float]:
        assert sums.device.type == "cpu"
        assert sums.dtype is torch.float64
        return {"accuracy_top1": float(sums[0] / sums[1])}


def make_config(**changes: Any) -> EngineConfig:
    defaults: dict[str, Any] = {
        "num_steps": NUM_STEPS,
        "num_accumulation": 1,
        "grad_clip_norm": None,
        "precision": "fp32",
        "compile": False,
        "device": "cpu",
        "batch_size_per_device": 6,
    }
    return EngineConfig(**defaults | changes)


def make_engine(optimizer: str = "sgd", model: nn.Module | None = None, seed: int = 0, **changes: Any) -> Single:
    torch.manual_seed(seed)
    single = Single()
    setup = TrainingSetup(model or Net(), MeanCrossEntropy(), OPTIMIZERS[optimizer], LinearDecay(warmup_steps=2))
    single.prepare(setup, make_config(**changes))
    return single


def make_batch(step: int, size: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(size, 5, generator=generator), torch.randint(4, (size,), generator=generator)


def train(single: Single, steps: Iterable[int]) -> list[dict[str, float]]:
    """Train with a random seed per step, like the trainer."""
    metrics = []
    for step in steps:
        torch.manual_seed(1000 + step)
        metrics.append({name: float(value) for name, value in single.train_step(make_batch(step), step).items()})
    return metrics


def count_all(batches: Iterable[Batch]) -> Iterator[tuple[Batch, bool]]:
    return ((each, True) for each in batches)


def save(single: Single, folder: Path) -> None:
    write = single.snapshot()
    assert write is not None
    write(folder)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.fixture(autouse=True)
def _restore_random_generators() -> Iterator[None]:
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)


def test_training_equals_a_hand_written_loop() -> None:
    single = make_engine("sgd", grad_clip_norm=0.5)
    torch.manual_seed(0)
    model = Net()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    metrics = train(single, range(4))
    for step, factor in enumerate([0.5, 1.0, 1.0, 0.8]):
        torch.manual_seed(1000 + step)
        inputs, targets = make_batch(step)
        optimizer.zero_grad()
        loss, _ = MeanCrossEntropy()(model(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.param_groups[0]["lr"] = 0.1 * factor
        optimizer.step()
        assert metrics[step] == {"loss_nats": float(loss.detach()), "grad_norm": float(norm)}
    assert_same(single.weights(), dict(model.state_dict()))


def test_accumulation_gives_the_step_of_the_whole_batch() -> None:
    def make_model() -> nn.Module:
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 4))

    whole, parts = make_engine(model=make_model()), make_engine(model=make_model(), num_accumulation=3)
    for step in range(3):
        one, three = whole.train_step(make_batch(step), step), parts.train_step(make_batch(step), step)
        torch.testing.assert_close(one, three)
    torch.testing.assert_close(whole.weights(), parts.weights())


def test_a_batch_that_accumulation_cannot_split_is_refused() -> None:
    single = make_engine(num_accumulation=4)
    with pytest.raises(ValueError, match=r"num_accumulation=4 cannot split a batch of 6"):
        single.train_step(make_batch(0), 0)


def test_metrics_are_detached_scalars() -> None:
    for num_accumulation in (1, 2):
        metrics = make_engine(grad_clip_norm=1.0, num_accumulation=num_accumulation).train_step(make_batch(0), 0)
        assert set(metrics) == {"loss_nats", "grad_norm"}
        assert all(value.shape == () and not value.requires_grad for value in metrics.values())


def test_inputs_and_targets_can_be_tuples() -> None:
    class TwoInputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 4)

        def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            assert inputs[0].shape == (3, 5)
            return self.linear(inputs[0]), self.linear(inputs[1])

    class SumOfTwo:
        def __call__(self, outputs: Tensors, targets: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
            loss = MeanCrossEntropy()(outputs[0], targets[0])[0] + MeanCrossEntropy()(outputs[1], targets[1])[0]
            return loss, {"loss_nats": loss}

    single = Single()
    single.prepare(
        TrainingSetup(TwoInputs(), SumOfTwo(), OPTIMIZERS["adam"], LinearDecay()), make_config(num_accumulation=2)
    )
    (left, first), (right, second) = make_batch(0), make_batch(1)
    assert isinstance(left, Tensor)
    assert isinstance(right, Tensor)
    assert isinstance(first, Tensor)
    assert isinstance(second, Tensor)
    assert single.train_step(((left, right), (first, second)), 0)["loss_nats"].shape == ()


def test_bf16_computes_in_bf16_and_keeps_weights_in_fp32() -> None:
    dtypes: list[torch.dtype] = []
    single = make_engine(precision="bf16")
    single.model.register_forward_hook(lambda module, inputs, outputs: dtypes.append(outputs.dtype))
    metrics = single.train_step(make_batch(0), 0)
    assert dtypes == [torch.bfloat16]
    assert metrics["loss_nats"].dtype is torch.float32
    assert {tensor.dtype for name, tensor in single.weights().items() if "num_batches" not in name} == {torch.float32}


def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"hardware.device=cuda .* set it to cpu or auto"):
        make_engine(device="cuda")
    assert make_engine(device="auto").forward.device.type == "cpu"


def test_evaluation_weights_every_example_equally() -> None:
    single = make_engine()
    batches = [make_batch(0, size=5), make_batch(1, size=2)]
    inputs, targets = (torch.cat([cast(Tensor, each[i]) for each in batches]) for i in range(2))
    metrics = single.evaluate(count_all(batches), Top1())
    single.model.eval()
    with torch.no_grad():
        loss, _ = MeanCrossEntropy()(single.model(inputs), targets)
    assert metrics.keys() == {"accuracy_top1", "loss_nats"}
    assert metrics["loss_nats"] == pytest.approx(float(loss))
    assert metrics["accuracy_top1"] == pytest.approx(float((single.model(inputs).argmax(1) == targets).double().mean()))


def test_evaluation_does_not_change_training() -> None:
    def draw_batches() -> Iterator[Batch]:
        for step in range(2):
            random.random(), np.random.rand(), torch.rand(3)  # a data set that uses all random generators
            yield make_batch(step, size=4)

    straight, interrupted = make_engine(), make_engine()
    straight.model.get_submodule("norm").eval()
    interrupted.model.get_submodule("norm").eval()
    expected, metrics = train(straight, range(3)), []
    for step in range(3):
        interrupted.evaluate(count_all(draw_batches()), Top1())
        metrics += train(interrupted, [step])
    assert metrics == expected
    assert interrupted.model.training
    assert not interrupted.model.get_submodule("norm").training


def test_training_can_use_tensors_that_a_data_set_caches_during_evaluation() -> None:
    single, cache = make_engine(), []

    def cache_batch() -> Iterator[Batch]:
        cache.append(torch.randn(6, 5) * 2)
        yield cache[0], torch.zeros(6, dtype=torch.int64)

    single.evaluate(count_all(cache_batch()), Top1())
    single.train_step((cache[0], torch.zeros(6, dtype=torch.int64)), 0)


def test_padding_batches_do_not_change_metrics() -> None:
    single = make_engine()
    some = [(make_batch(0, size=5), True), (make_batch(1, size=2), False)]
    assert single.evaluate(some, Top1()) == single.evaluate(some[:1], Top1())


def test_evaluation_without_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one batch, but got 0"):
        make_engine().evaluate([], Top1())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"precision": "bf16"}, {"num_accumulation": 3, "grad_clip_norm": 0.3}],
    ids=["plain", "bf16", "accumulation-and-clipping"],
)
def test_a_resume_is_bit_identical(tmp_path: Path, optimizer: str, changes: dict[str, Any]) -> None:
    straight = make_engine(optimizer, **changes)
    expected = train(straight, range(NUM_STEPS))

    before = make_engine(optimizer, **changes)
    metrics = train(before, range(4))
    save(before, tmp_path)
    after = make_engine(optimizer, seed=99, **changes)
    after.load(tmp_path)
    metrics += train(after, range(4, NUM_STEPS))

    assert metrics == expected
    assert_same(after.weights(), straight.weights())


def test_a_snapshot_does_not_change_during_further_training(tmp_path: Path) -> None:
    single = make_engine("adam")
    train(single, range(2))
    expected = single.weights()
    write = single.snapshot()
    assert write is not None
    train(single, range(2, 5))
    write(tmp_path)
    after = make_engine("adam", seed=99)
    after.load(tmp_path)
    assert_same(after.weights(), expected)
    assert train(after, range(2, 5)) == train(train_to(2), range(2, 5))


def train_to(step: int) -> Single:
    single = make_engine("adam")
    train(single, range(step))
    return single


def test_a_state_from_before_the_first_step_can_be_restored(tmp_path: Path) -> None:
    save(make_engine("adam"), tmp_path)
    after = make_engine("adam", seed=99)
    after.load(tmp_path)
    assert_same(after.weights(), make_engine("adam").weights())


def test_weights_are_copies_under_every_name() -> None:
    single = make_engine()
    weights = single.weights()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    train(single, range(2))
    assert_same(weights, before)
    Net().load_state_dict(weights)
    assert all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in weights.values())
    assert weights["tied.weight"].data_ptr() != weights["middle.weight"].data_ptr()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # warnings of the compiler
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_trains_the_same_and_keeps_its_names(tmp_path: Path) -> None:
    plain, compiled = make_engine(), make_engine(compile=True)
    for single in (plain, compiled):
        cast(nn.Dropout, single.model.get_submodule("dropout")).p = 0.0
    for step in range(3):
        torch.testing.assert_close(
            plain.train_step(make_batch(step), step), compiled.train_step(make_batch(step), step)
        )
    batches = [(make_batch(8, size=6), True)]
    assert plain.evaluate(batches, Top1()) == pytest.approx(compiled.evaluate(batches, Top1()), rel=1e-4)
    torch.testing.assert_close(plain.weights(), compiled.weights())
    save(compiled, tmp_path)
    plain.load(tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_trains_like_the_cpu(tmp_path: Path) -> None:
    on_cpu, on_cuda = make_engine("adam"), make_engine("adam", device="cuda")
    for single in (on_cpu, on_cuda):
        cast(nn.Dropout, single.model.get_submodule("dropout")).p = 0.0
    for step in range(4):
        expected, metrics = on_cpu.train_step(make_batch(step), step), on_cuda.train_step(make_batch(step), step)
        assert metrics["loss_nats"].device.type == "cuda"
        torch.testing.assert_close(metrics, expected, check_device=False, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(on_cuda.weights(), on_cpu.weights(), rtol=1e-3, atol=1e-4)
    save(on_cuda, tmp_path)
    expected_next = train(on_cuda, [4])
    again = make_engine("adam", seed=99, device="cuda")
    cast(nn.Dropout, again.model.get_submodule("dropout")).p = 0.0
    again.load(tmp_path)
    assert train(again, [4]) == expected_next
