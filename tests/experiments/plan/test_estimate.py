"""Compares estimates on the meta device with torch's allocations and with manual calculations."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.components.assemble import assemble
from experiments.config.compose import compose
from experiments.core.errors import PlanError
from experiments.plan.estimate import (
    ResourceEstimate,
    estimate,
    explain_normalisation,
    memory_bytes,
    refuse_if_too_large,
    seconds_per_step,
)
from experiments.plan.plan import make_plan
from modules.parallel.cost_model.memory import StageMemory
from modules.parallel.cost_model.step_time import STEP_S
from tests.conftest import Lathe


def counted(*overrides: str) -> ResourceEstimate:
    config = compose(list(overrides)).config
    return estimate(config, make_plan(config))


class _Living(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all live storages that operations allocated."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = (storage._weak_ref(), storage.nbytes())
        return out

    def bytes(self, model: nn.Module) -> int:
        weights = {p.untyped_storage()._cdata for p in model.parameters()}
        return sum(
            size
            for key, (weak, size) in self.storages.items()
            if key not in weights and not torch.UntypedStorage._expired(weak)
        )


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm1d(3), (1, 3)),
        (nn.BatchNorm2d(3), (1, 3, 1, 1)),
        (nn.GroupNorm(3, 3), (1, 3)),
        (nn.InstanceNorm2d(3), (1, 3, 1, 1)),
    ],
    ids=str,
)
def test_normalisation_over_one_value_is_reported_with_its_key(layer: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="Expected more than 1") as caught:
        layer(torch.zeros(shape))
    message = explain_normalisation(caught.value, 1)
    assert message is not None
    assert message.startswith(
        "batch_size_per_device=1: a layer of the model normalises over single values (Expected more"
    )
    assert explain_normalisation(ValueError("another"), 1) is None


@pytest.mark.parametrize(
    "overrides",
    [
        ("model=mlp", "model.hidden_sizes=[300,200]", "batch_size_global=128"),
        ("model=mlp", "model.hidden_sizes=[300]", "model.dropout_prob=0.5", "batch_size_global=256", "optimizer=sgd"),
        ("model=lenet", "model.conv_channels=[8,16]", "batch_size_global=96", "batch_size_per_device=32"),
        ("model=lenet", "model.conv_channels=[8,16]", "batch_size_global=96", "precision=bf16"),
    ],
)
def test_the_estimate_matches_the_memory_of_torch(overrides: tuple[str, ...]) -> None:
    config = compose(list(overrides)).config
    plan = make_plan(config)
    estimated = estimate(config, plan)
    parts = assemble(config)
    setup, model = parts.setup, parts.setup.model.train()
    inputs, targets = parts.data.example(plan.batch_size_per_device)
    assert isinstance(inputs, Tensor)
    assert isinstance(targets, Tensor)
    optimizer = setup.optimizer(model.parameters())
    with _Living() as mode:
        with torch.autocast("cpu", torch.bfloat16, enabled=config["precision"] == "bf16"):
            loss, metrics = setup.objective(model(inputs), targets)
        del metrics
        held = mode.bytes(model) + inputs.nbytes + targets.nbytes
        assert estimated.fullest.activations_bytes == pytest.approx(held, rel=0.15)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert estimated.num_parameters == sum(p.numel() for p in model.parameters())
    assert estimated.fullest.weights_bytes == sum(p.nbytes for p in model.parameters())
    assert estimated.fullest.gradients_bytes == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    states = optimizer.state_dict()["state"].values()
    held = sum(value.nbytes for state in states for value in state.values() if isinstance(value, Tensor))
    assert estimated.fullest.optimizer_bytes == held


def test_accumulation_saves_activations_but_no_flops() -> None:
    whole, split = counted("batch_size_global=64"), counted("batch_size_global=64", "batch_size_per_device=8")
    assert split.flops_per_step == whole.flops_per_step
    assert whole.fullest.activations_bytes > 6 * split.fullest.activations_bytes  # the batch is there as a whole
    assert split.fullest.weights_bytes == whole.fullest.weights_bytes


def test_a_large_model_is_estimated_without_allocation() -> None:
    estimated = counted("model=mlp", "model.hidden_sizes=[200000,200000]")
    assert estimated.total_bytes > 600e9  # weights, gradients and two moments of 40e9 parameters


def test_a_model_that_does_not_accept_the_data_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    config = compose(["model=mlp", "model.num_features=63"]).config
    with pytest.raises(PlanError, match=r"does not accept a batch of data \(inputs \[64, 1, 8, 8\], targets \[64\]\)"):
        estimate(config, make_plan(config))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return (outputs - targets[:, None]).square().mean()",
            "objective=.*returns a .*Tensor; return the loss and a dict",
        ),
        ("return 1.0, {}, None", "objective=.*returns 3 values; return the loss and a dict of metrics"),
        ("return self.missing", r"objective=.*no attribute 'missing' \(odd_objective.py:4\)"),
        ("return outputs @ targets, {}", r"objective=.*\(odd_objective.py:4\); choose another objective or model"),
    ],
)
def test_an_objective_that_fails_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    code = f"class Odd:\n    is_component = True\n    def __call__(self, outputs, targets):\n        {body}\n"
    (tmp_path / "odd_objective.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "odd_objective", raising=False)
    words = ["model=softmax", "objective._target_=odd_objective.Odd"]
    words += ["~objective.label_smoothing_prob", "~objective.aux_weight"]
    config = compose(words, trust=["odd_objective"]).config
    with pytest.raises(PlanError, match=message):
        estimate(config, make_plan(config), ["odd_objective"])


def test_time_and_memory_follow_from_the_hardware() -> None:
    stage = StageMemory(0, 1, 1, 4, 4, 0, 0, 8, total_bytes=16)
    estimated = ResourceEstimate(1, (stage,), flops_per_step=3_000_000_000, num_trained=1)
    stated = {"device": "cpu", "memory_gb": 2.5, "peak_tflops": 10.0, "mfu": 0.3}
    assert seconds_per_step(estimated, stated) == pytest.approx(1e-3 + STEP_S)
    assert memory_bytes(stated) == 2.5e9
    measured_hardware = {"device": "cpu", "memory_gb": None, "peak_tflops": None, "mfu": 0.3}
    assert 1e-4 < seconds_per_step(estimated, measured_hardware) < 100
    assert memory_bytes(measured_hardware) > 1e8


@pytest.mark.parametrize("fault", ["{}['a']", "images.item()", "images.no_such", "1 / 0"])
def test_an_exception_of_a_model_is_reported_in_one_line(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faulty.py").write_text(
        f"from torch import nn\nclass Net(nn.Module):\n    def forward(self, images):\n        return {fault}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faulty", raising=False)
    config: dict[str, Any] = compose([]).config
    config["model"] = {"_target_": "faulty.Net"}
    with pytest.raises(
        PlanError, match=r"Error: .* \(faulty\.py:4\); choose another model, or correct its forward\(\)$"
    ):
        estimate(config, make_plan(config), ["faulty"])
    refuse_if_too_large(config | {"hardware": config["hardware"] | {"memory_gb": 1e-9}}, make_plan(config), ["faulty"])


def test_a_run_is_refused_like_its_plan(lathe: Lathe, tmp_path: Path) -> None:
    done = lathe("run", "hardware.memory_gb=0.0001")
    assert done.returncode == 2
    assert "batch_size_per_device=64 needs 7 MB of the device's 0.1 MB (hardware.memory_gb)" in done.stderr
    assert not list(tmp_path.glob("runs/single/*"))


@pytest.mark.parametrize("name", ["nadam.NAdam", "radam.RAdam", "adamax.Adamax"])
def test_an_optimizer_that_reads_its_values_is_counted(name: str) -> None:
    overrides = ["model=mlp", f"optimizer._target_=torch.optim.{name}", "~optimizer.weight_decay", "~optimizer.betas"]
    config = compose([*overrides, "~optimizer.eps"]).config
    counted = estimate(config, make_plan(config))
    two_a_weight = 2 * counted.fullest.weights_bytes
    assert two_a_weight <= counted.fullest.optimizer_bytes <= two_a_weight * 1.05
