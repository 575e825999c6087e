"""What a plan needs of its devices, counted on the meta device: nothing is allocated and nothing computed."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from experiments.components.assemble import Components, assemble
from experiments.components.instantiate import describe_error
from experiments.core.errors import PlanError
from experiments.plan.plan import Plan
from modules.data.base import Batch, Tensors
from modules.parallel.cost_model.compatibility import (
    find_evaluator_incompatibilities,
    find_incompatibilities,
    find_stage_bounds,
)
from modules.parallel.cost_model.layer_counts import ModelCount
from modules.parallel.cost_model.layout import ParallelLayout
from modules.parallel.cost_model.memory import StageMemory, estimate_memory
from modules.parallel.cost_model.model_profile import count_model
from modules.parallel.cost_model.step_time import STEP_S, Machine, StepCost, estimate_cost

ASSUMED_TFLOPS = {"cpu": 0.05, "cuda": 100.0}
LINK = {"cpu": (1.0, 100.0), "cuda": (25.0, 10.0)}
"""GB/s and microseconds within a node where nobody says: gloo on the loopback, PCIe 4."""
NETWORK = (1.25, 50.0)
"""The same between nodes: Ethernet of 10 Gb/s."""
HOST_GB_PER_S = 25.0
"""PCIe 4, and about a device's share of its host's memory."""
OPERATION_US = 5.0
"""To start one operation of torch's, on any device (2026-11-24, one core)."""


@dataclass(frozen=True)
class ResourceEstimate:
    """Counts of the whole training, and bytes of every stage's ranks."""

    num_parameters: int
    stages: tuple[StageMemory, ...]
    flops_per_step: int
    """Forward and backward of one update, over all devices; a multiply-add counts two."""
    cost: StepCost | None = None
    """Guessed time of a step; None for one process, where work and peak say it all."""

    @property
    def fullest(self) -> StageMemory:
        return max(self.stages, key=lambda stage: stage.total_bytes)

    @property
    def total_bytes(self) -> int:
        """Of the fullest rank at its fullest moment."""
        return self.fullest.total_bytes


def estimate(config: Mapping[str, Any], plan: Plan, trust: Collection[str] = ()) -> ResourceEstimate:
    """Footprint of a plan.

    Raises:
        PlanError: parts refuse their values, or model, data and objective do not fit each other or the topology.
    """
    layout, topology, hardware = make_layout(config, plan), plan.topology, config["hardware"]
    with torch.device("meta"):
        components = assemble(config, trust)
    partition = config["parallel"].get("partition", "parameters")
    problems = find_incompatibilities(components.task.model, topology, partition) + find_evaluator_incompatibilities(
        components.evaluator, layout
    )
    if problems:
        raise PlanError(problems, f"the plan for '{plan.name}'")
    num_parameters = sum(parameter.numel() for parameter in components.task.model.parameters())
    bounds = find_stage_bounds(components.task.model, topology.pipe, partition) if topology.pipe > 1 else None
    counts = count_micro_batch(config, components, plan.name, plan.batch_size_per_device, topology.model)
    bounds = bounds or [0, len(counts.layers)]
    work = sum(layer.flops for layer in (*counts.layers, counts.loss))
    return ResourceEstimate(
        num_parameters=num_parameters,
        stages=tuple(estimate_memory(counts, bounds, layout, on_cpu=resolve_device(hardware) == "cpu")),
        flops_per_step=work * plan.num_accumulation * topology.data * topology.model,
        cost=estimate_cost(counts, bounds, layout, make_machine(hardware)) if topology.world > 1 else None,
    )


def make_layout(config: Mapping[str, Any], plan: Plan) -> ParallelLayout:
    """How a plan shares its training out."""
    node = config["parallel"]
    engine = "pipeline" if "pipe" in node else "zero" if "stage" in node else "data" if "data" in node else "single"
    return ParallelLayout(
        engine=engine,  # type: ignore[arg-type]
        topology=plan.topology,
        stage=1 if engine == "pipeline" else node.get("stage", 0),
        offload=node.get("offload", "none"),
        batch_size_per_device=plan.batch_size_per_device,
        num_micro_batches=plan.num_accumulation,
    )


def count_micro_batch(
    config: Mapping[str, Any], components: Components, name: str, batch_size: int, num_slices: int
) -> ModelCount:
    """Count one micro-batch; the parts are on the meta device, and their model stays as it is.

    Raises:
        PlanError: model, data and objective do not fit each other.
    """
    subject = f"the plan for '{name}'"
    with torch.device("meta"):
        try:
            batch: Batch = components.data.example(batch_size)
            shapes = f"inputs {_shapes(batch[0])}, targets {_shapes(batch[1])}"
        except Exception as err:  # so may a data set
            problem = f"data={config['data']['_target_']} gives no batch of {batch_size}"
            raise PlanError(
                [f"{problem}: {describe_error(err)}; lower batch_size_per_device, or see its example"], subject
            ) from err
        try:
            return count_model(components.task, batch, config["precision"], num_slices)
        except (DataDependentOutputException, DynamicOutputShapeException) as err:
            problem = f"model={config['model']['_target_']} reads a value while it computes ({describe_error(err)})"
            raise PlanError(
                [f"{problem}, and a plan has shapes only; `lathe run` trains it all the same"], subject
            ) from err
        except Exception as err:  # a model of the user's may raise anything
            problem = f"model={config['model']['_target_']} does not take what data gives ({shapes})"
            raise PlanError(
                [f"{problem}: {describe_error(err)}; choose another model, or see its forward"], subject
            ) from err


def check_memory(counts: ResourceEstimate, plan: Plan, hardware: Mapping[str, Any]) -> None:
    """Refuse what one device cannot hold.

    Raises:
        PlanError: it is too much.
    """
    available = memory_bytes(hardware)
    if counts.total_bytes <= available:
        return
    needed = f"{megabytes(counts.total_bytes)} of the device's {megabytes(available)} (hardware.memory_gb)"
    hint = "lower it, the gradients then accumulate, or take a smaller model"
    if plan.topology.world > 1:
        hint += ", or see what parallel=auto finds"
    raise PlanError(
        [f"batch_size_per_device={plan.batch_size_per_device} needs {needed}; {hint}"],
        f"the plan for '{plan.name}'",
    )


def refuse_if_too_large(config: Mapping[str, Any], plan: Plan, trust: Collection[str] = ()) -> None:
    """Refuse a training that the device's stated memory cannot hold; for the job, whose own build tells all else.

    Raises:
        PlanError: it is too much.
    """
    try:
        counts = estimate(config, plan, trust)
    except PlanError:  # some models run only with real numbers; what is truly wrong shows when the parts are built
        return
    check_memory(counts, plan, config["hardware"])


def flops_per_step(config: Mapping[str, Any], plan: Plan, trust: Collection[str] = ()) -> int | None:
    """Operations of one update, a multiply-add counting two; None for a model that runs only with real numbers."""
    try:
        return estimate(config, plan, trust).flops_per_step
    except PlanError:
        return None


def megabytes(number: float) -> str:
    return f"{number / 1e6:,.0f} MB" if number >= 1e6 else f"{number / 1e6:.1g} MB"


def resolve_device(hardware: Mapping[str, Any]) -> str:
    """What kind of device it is: "cpu" or "cuda"."""
    if hardware["device"] == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return str(hardware["device"])


def memory_bytes(hardware: Mapping[str, Any]) -> float:
    """Memory of one device: as stated, else what this machine has; ranks on a CPU share its memory."""
    if hardware["memory_gb"] is not None:
        return float(hardware["memory_gb"]) * 1e9
    if hardware["device"] != "cpu" and torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(psutil.virtual_memory().total / hardware.get("devices_per_node", 1))


def make_machine(hardware: Mapping[str, Any]) -> Machine:
    """The numbers that a step's time depends on; what is not stated is assumed, the same on every machine."""
    device = resolve_device(hardware)

    def stated(key: str, otherwise: float) -> float:
        value = hardware.get(key)
        return float(otherwise if value is None else value)

    return Machine(
        flops_per_s=stated("peak_tflops", ASSUMED_TFLOPS[device]) * 1e12 * hardware["mfu"],
        devices_per_node=hardware["devices_per_node"],
        concurrent_devices=hardware["devices_per_node"] if device == "cuda" else _cores(hardware),
        link_bytes_per_s=stated("link_gb_per_s", LINK[device][0]) * 1e9,
        link_latency_s=stated("link_latency_us", LINK[device][1]) * 1e-6,
        network_bytes_per_s=stated("network_gb_per_s", NETWORK[0]) * 1e9,
        network_latency_s=stated("network_latency_us", NETWORK[1]) * 1e-6,
        operation_s=OPERATION_US * 1e-6,
        host_bytes_per_s=HOST_GB_PER_S * 1e9,
        is_accelerator=device == "cuda",
    )


def _cores(hardware: Mapping[str, Any]) -> float:
    """Processes that a node's cores serve at once."""
    cores = int(hardware.get("cpu_cores") or psutil.cpu_count() or 1)
    threads = int(hardware.get("cpu_threads") or max(1, cores // hardware["devices_per_node"]))
    return max(1.0, cores / threads)


def seconds_per_step(counts: ResourceEstimate, hardware: Mapping[str, Any]) -> float:
    """A guess: by the cost model where ranks exchange, else the work by the peak, as stated or else as a short matrix
    product reaches it here, by the MFU."""
    if counts.cost is not None:
        return counts.cost.total_s
    peak_tflops = hardware["peak_tflops"] or _matmul_tflops(hardware["device"])
    return float(counts.flops_per_step / (peak_tflops * 1e12 * hardware["mfu"])) + STEP_S


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
    each = tensors if isinstance(tensors, tuple) else (tensors,)
    return ", ".join(str(list(tensor.shape)) for tensor in each)
