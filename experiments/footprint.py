"""What a training needs of one device, counted on the meta device: nothing is allocated and nothing computed."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from experiments.build import in_a_line
from experiments.faults import PlanError
from experiments.parts import make_parts
from experiments.plan import Plan
from modules.data.base import Batch, Tensors
from modules.parallel.base import Learner

SMALLEST_STEP_S = 0.5e-3  # what a step of a tiny model takes, whatever it computes (2026-11-23: mlp on digits 0.6 ms)


@dataclass(frozen=True)
class Footprint:
    """Counts and bytes of one device that holds the whole model."""

    num_parameters: int
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    """What the forward pass of one micro-batch keeps for the backward pass, with the batch itself."""
    flops_per_step: int
    """Forward and backward of one update; a multiply-add counts two."""

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes + self.activations_bytes


def footprint(learner: Learner, batch: Batch, num_accumulation: int, precision: str) -> Footprint:
    """Count one update of a learner whose model was built on the meta device.

    Args:
        learner: its model's parameters lie on the meta device.
        batch: one micro-batch on the meta device.
        num_accumulation: micro-batches of one update.
        precision: "fp32", or "bf16" for autocast.
    """
    model = learner.model
    parameters = [p for p in model.parameters() if p.requires_grad]
    weights_bytes = sum(_bytes(tensor) for tensor in (*model.parameters(), *model.buffers()))
    num_parameters = sum(p.numel() for p in model.parameters())
    gradients_bytes = sum(_bytes(p) for p in parameters)
    optimizer_bytes = _optimizer_bytes(learner, parameters)
    # Autocast has no effect on the meta device; fake tensors say that they lie on the CPU.
    with FakeTensorMode() if precision == "bf16" else nullcontext():
        if precision == "bf16":
            batch = _fakes(learner, batch)
        activations_bytes, flops = _forward_and_backward(learner, batch, precision)
    return Footprint(
        num_parameters=num_parameters,
        weights_bytes=weights_bytes,
        gradients_bytes=gradients_bytes,
        optimizer_bytes=optimizer_bytes,
        activations_bytes=activations_bytes,
        flops_per_step=flops * num_accumulation,
    )


def _forward_and_backward(learner: Learner, batch: Batch, precision: str) -> tuple[int, int]:
    """Bytes that the forward pass keeps, the batch among them, and the work of both passes."""
    model, kept = learner.model.train(), dict[int, int]()
    with FlopCounterMode(display=False) as counter, _count_saved(model, kept):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss, _ = learner.objective(model(batch[0]), batch[1])
        loss.backward()  # type: ignore[no-untyped-call]
    for tensor in (*_tensors(batch[0]), *_tensors(batch[1])):
        kept[tensor.untyped_storage()._cdata] = _bytes(tensor)
    return sum(kept.values()), counter.get_total_flops()


def _fakes(learner: Learner, batch: Batch) -> Batch:
    """Put fake tensors into the model and the objective, and give a fake batch."""

    def fake(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")

    for part in (learner.model, learner.objective):
        if isinstance(part, nn.Module):
            part._apply(fake)  # type: ignore[no-untyped-call]
    inputs, targets = (tuple(map(fake, each)) if isinstance(each, tuple) else fake(each) for each in batch)
    return inputs, targets


@contextmanager
def _count_saved(model: nn.Module, kept: dict[int, int]) -> Iterator[None]:
    """Note the bytes of every storage that autograd saves, each once, the weights left out."""
    weights = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    held: list[Tensor] = []  # a storage that were freed could give its place, and so its key, to the next one

    def pack(tensor: Tensor) -> Tensor:
        key = tensor.untyped_storage()._cdata
        if key not in weights:
            kept[key] = tensor.untyped_storage().nbytes()
            held.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


def _optimizer_bytes(learner: Learner, parameters: list[nn.Parameter]) -> int:
    """Bytes of the state that the optimizer holds after one step."""
    if not parameters:
        return 0
    try:
        return sum(_bytes(value) for value in _state_after_a_step(learner, parameters))
    except RuntimeError:  # NAdam and others read a value, and the meta device has none
        sample = nn.Parameter(torch.zeros(2, 3, dtype=parameters[0].dtype, device="cpu"))
        state = _state_after_a_step(learner, [sample])
        alike = sum(value.element_size() for value in state if value.shape == sample.shape)
        others = sum(_bytes(value) for value in state if value.shape != sample.shape)
        return alike * sum(parameter.numel() for parameter in parameters) + others * len(parameters)


def _state_after_a_step(learner: Learner, parameters: list[nn.Parameter]) -> list[Tensor]:
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = learner.optimizer(parameters)
    try:
        with torch.device(parameters[0].device):
            optimizer.step()
    finally:
        optimizer.zero_grad(set_to_none=True)
    states = optimizer.state_dict()["state"].values()
    return [value for state in states for value in state.values() if isinstance(value, Tensor)]


def _tensors(tensors: Tensors) -> tuple[Tensor, ...]:
    return tensors if isinstance(tensors, tuple) else (tensors,)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def of_plan(config: Mapping[str, Any], plan: Plan, trust: Collection[str] = ()) -> Footprint:
    """Footprint of one device under a plan.

    Raises:
        PlanError: parts refuse their values, or model, data and objective do not fit each other.
    """
    subject = f"the plan for '{plan.name}'"
    with torch.device("meta"):
        parts = make_parts(config, trust)
        try:
            batch = parts.data.example(plan.batch_size_per_device)
            shapes = f"inputs {_shapes(batch[0])}, targets {_shapes(batch[1])}"
        except Exception as err:  # so may a data set
            problem = f"data={config['data']['_target_']} gives no batch of {plan.batch_size_per_device}"
            raise PlanError(
                [f"{problem}: {in_a_line(err)}; lower batch_size_per_device, or see its example"], subject
            ) from err
        try:
            return footprint(parts.learner, batch, plan.num_accumulation, config["precision"])
        except Exception as err:  # a model of the user's may raise anything
            if "meta tensors" in str(err):
                problem = f"model={config['model']['_target_']} reads a value while it computes ({in_a_line(err)})"
                raise PlanError(
                    [f"{problem}, and a plan has shapes only; `lathe run` trains it all the same"], subject
                ) from err
            problem = f"model={config['model']['_target_']} does not take what data gives ({shapes})"
            raise PlanError(
                [f"{problem}: {in_a_line(err)}; choose another model, or see its forward"], subject
            ) from err


def check_memory(counted: Footprint, plan: Plan, hardware: Mapping[str, Any]) -> None:
    """Refuse what one device cannot hold.

    Raises:
        PlanError: it is too much.
    """
    available = memory_bytes(hardware)
    if counted.total_bytes <= available:
        return
    needed = f"{_megabytes(counted.total_bytes)} of the device's {_megabytes(available)} (hardware.memory_gb)"
    way_out = "lower it, the gradients then accumulate, or take a smaller model"
    raise PlanError(
        [f"batch_size_per_device={plan.batch_size_per_device} needs {needed}; {way_out}"],
        f"the plan for '{plan.name}'",
    )


def refuse_too_large(config: Mapping[str, Any], plan: Plan, trust: Collection[str] = ()) -> None:
    """Refuse a training that the device's stated memory cannot hold; for the job, whose own build tells all else.

    Raises:
        PlanError: it is too much.
    """
    try:
        counted = of_plan(config, plan, trust)
    except PlanError:  # some models run only with real numbers; what is truly wrong shows when the parts are built
        return
    check_memory(counted, plan, config["hardware"])


def _megabytes(number: float) -> str:
    return f"{number / 1e6:,.0f} MB" if number >= 1e6 else f"{number / 1e6:.1g} MB"


def memory_bytes(hardware: Mapping[str, Any]) -> float:
    """Memory of one device: as stated, else what this machine has."""
    if hardware["memory_gb"] is not None:
        return float(hardware["memory_gb"]) * 1e9
    if hardware["device"] != "cpu" and torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(psutil.virtual_memory().total)


def seconds_per_step(counted: Footprint, hardware: Mapping[str, Any]) -> float:
    """A guess: the work by the peak, as stated or else as a short matrix product reaches it here, by the efficiency."""
    peak_tflops = hardware["peak_tflops"] or _matmul_tflops(hardware["device"])
    return float(counted.flops_per_step / (peak_tflops * 1e12 * hardware["efficiency"])) + SMALLEST_STEP_S


def _matmul_tflops(device: str, size: int = 512, seconds: float = 0.2) -> float:
    """The best of many short products: on a busy machine most are interrupted."""
    cuda = device != "cpu" and torch.cuda.is_available()
    matrix = torch.ones(size, size, device="cuda" if cuda else "cpu")
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e12


def _shapes(tensors: Tensors) -> str:
    return ", ".join(str(list(tensor.shape)) for tensor in _tensors(tensors))
