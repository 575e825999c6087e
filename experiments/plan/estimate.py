"""Estimates the memory, FLOPs and step time of a plan on the meta device, without allocating or computing anything."""

from __future__ import annotations

import time
import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._pytree import tree_leaves

from experiments.components.assemble import Components, assemble
from experiments.components.instantiate import describe_error
from experiments.config.rules.engine import read_engine
from experiments.core.errors import PlanError
from experiments.plan.plan import Plan
from experiments.plan.without_compiler import without_compiler
from modules.data.base import Tree
from modules.optimizer.base import find_optimizer_problems
from modules.parallel.cost_model.compatibility import (
    find_evaluator_incompatibilities,
    find_incompatibilities,
    find_splitting,
    find_stage_bounds,
)
from modules.parallel.cost_model.layer_counts import ModelCount
from modules.parallel.cost_model.layout import Kind, ParallelLayout
from modules.parallel.cost_model.memory import StageMemory, estimate_memory
from modules.parallel.cost_model.model_profile import count_model
from modules.parallel.cost_model.step_time import STEP_S, Machine, StepCost, estimate_cost
from modules.task.base import Task

SUPERVISED = "modules.task.supervised.Supervised"
ASSUMED_TFLOPS = {"cpu": 0.05, "cuda": 100.0}
LINK = {"cpu": (1.0, 100.0), "cuda": (25.0, 10.0)}
"""Default GB/s and microseconds within a node: gloo on the loopback device, PCIe 4."""
NETWORK = (1.25, 50.0)
"""The same between nodes: 10 Gb/s Ethernet."""
HOST_GB_PER_S = 25.0
"""PCIe 4, and about one device's share of the host's memory bandwidth."""
OPERATION_US = 5.0
"""Time to start one torch operation on any device (2026-11-24, one core)."""


@dataclass(frozen=True)
class ResourceEstimate:
    """Parameters and FLOPs of the whole training, and the memory of each stage's ranks."""

    num_parameters: int
    stages: tuple[StageMemory, ...]
    flops_per_step: int
    """Forward and backward of one update, over all devices; a multiply-add counts as two."""
    num_trained: int
    """Parameters that are trained; the others are frozen."""
    cost: StepCost | None = None
    """Estimated time of a step; None for one process, whose time follows from its FLOPs."""

    @property
    def fullest(self) -> StageMemory:
        return max(self.stages, key=lambda stage: stage.total_bytes)

    @property
    def total_bytes(self) -> int:
        """Peak memory of the rank that needs most."""
        return self.fullest.total_bytes


@without_compiler
def estimate(config: Mapping[str, Any], plan: Plan, trust: Collection[str] = ()) -> ResourceEstimate:
    """Estimate what a plan needs.

    Raises:
        PlanError: a component refuses its arguments, or model, data and objective do not fit each other or the topology.
    """
    layout, topology, hardware = make_layout(config, plan), plan.topology, config["hardware"]
    with torch.device("meta"):
        components = assemble(config, trust)
    engine, model = read_engine(config), components.setup.model
    partition = engine.get("partition", "parameters")
    splits = find_splitting(layout.stage, topology, plan.num_servers, engine.settings)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    problems = find_incompatibilities(model, topology, partition, engine.settings)
    problems += find_evaluator_incompatibilities(components.evaluator, layout, engine.settings)
    takes_closures = "closure" in getattr(components.engine, "serves", ())
    phases = [phase.name for phase in components.setup.get_task().phases()]
    problems += find_optimizer_problems(
        components.setup.optimizer, trained, splits, takes_closures=takes_closures, phases=phases
    )
    try:
        components.setup.get_task().check(model, components.data.example(2))
    except ValueError as err:
        problems.append(str(err))
    if problems:
        raise PlanError(problems, f"the plan for '{plan.name}'")
    bounds = find_stage_bounds(components.setup.model, topology.pipe, partition) if topology.pipe > 1 else None
    counts = count_micro_batch(config, components, plan.name, plan.batch_size_per_device, topology.model)
    bounds = bounds or [0, len(counts.layers)]
    work = sum(layer.flops for layer in (*counts.layers, counts.loss))
    return ResourceEstimate(
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_trained=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        stages=tuple(estimate_memory(counts, bounds, layout, on_cpu=resolve_device(hardware) == "cpu")),
        flops_per_step=work * plan.num_accumulation * topology.data * topology.model,
        cost=estimate_cost(counts, bounds, layout, make_machine(hardware)) if topology.world > 1 else None,
    )


def make_layout(config: Mapping[str, Any], plan: Plan) -> ParallelLayout:
    """The parallel layout of a plan."""
    engine = read_engine(config)
    kind: Kind = (
        "pipeline"
        if engine.has("pipe")
        else "zero"
        if engine.has("stage")
        else "data"
        if engine.has("data")
        else "single"
    )
    return ParallelLayout(
        engine=kind,
        topology=plan.topology,
        stage=engine.get("stage", 0),
        offload=engine.get("offload", "none"),
        batch_size_per_device=plan.batch_size_per_device,
        num_micro_batches=plan.num_accumulation,
    )


def count_micro_batch(
    config: Mapping[str, Any], components: Components, name: str, batch_size: int, num_slices: int
) -> ModelCount:
    """Count the FLOPs and memory of one micro-batch, with components on the meta device.

    Raises:
        PlanError: model, data and objective do not fit each other.
    """
    subject = f"the plan for '{name}'"
    with torch.device("meta"):
        try:
            batch: Tree = components.data.example(batch_size)
            shapes = _describe_shapes(batch)
        except Exception as err:  # a user's data set may raise anything
            problem = f"data={config['data']['_target_']} gives no batch of {batch_size}"
            raise PlanError(
                [f"{problem}: {describe_error(err)}; lower batch_size_per_device, or correct its example()"], subject
            ) from err
        try:
            return count_model(components.setup, batch, config["precision"], num_slices)
        except (DataDependentOutputException, DynamicOutputShapeException) as err:
            problem = f"model={config['model']['_target_']} depends on values of the data ({describe_error(err)})"
            raise PlanError(
                [f"{problem}, and a plan knows only shapes; `lathe run` can still train it"], subject
            ) from err
        except Exception as err:  # a user's model may raise anything
            problem = _describe_misfit(err, config, components, shapes)
            raise PlanError([explain_normalisation(err, batch_size) or problem], subject) from err


def _describe_misfit(err: Exception, config: Mapping[str, Any], components: Components, shapes: str) -> str:
    """Which component fails in a step on paper, and why: the innermost one that the error went through."""
    objective, task = type(components.setup.objective), str(config.get("task", {}).get("_target_", SUPERVISED))
    for frame in reversed([frame for frame, _ in traceback.walk_tb(err.__traceback__)]):
        part = frame.f_locals.get("objective" if frame.f_code.co_name == "apply_objective" else "self")
        if isinstance(part, nn.Module) and type(part) is not objective:
            break
        if type(part) is objective:
            return (
                f"objective={config['objective']['_target_']} does not accept what the model makes of a batch of data "
                f"({shapes}): {describe_error(err)}; choose another objective or model, or correct it"
            )
        if isinstance(part, Task) and task != SUPERVISED:
            return (
                f"task={task} cannot compute its loss of a batch of data ({shapes}): "
                f"{describe_error(err)}; correct its loss()"
            )
    return (
        f"model={config['model']['_target_']} does not accept a batch of data ({shapes}): {describe_error(err)}; "
        "choose another model, or correct its forward()"
    )


def explain_normalisation(err: Exception, batch_size: int) -> str | None:
    """What to do about torch's error where batch normalisation gets one value per channel; None for other errors.

    Args:
        err: of a forward pass in training mode.
        batch_size: examples of the micro-batch.
    """
    if "Expected more than 1" not in str(err):
        return None
    return (
        f"batch_size_per_device={batch_size}: a layer of the model normalises over single values ({err}); it needs at least 2 "
        "per channel; set batch_size_per_device to 2 or more, and batch_size_global to a multiple of it, or use larger inputs"
    )


def check_memory(counts: ResourceEstimate, plan: Plan, hardware: Mapping[str, Any]) -> None:
    """Refuse a plan that needs more memory than a device has.

    Raises:
        PlanError: it needs too much.
    """
    available = memory_bytes(hardware)
    if counts.total_bytes <= available:
        return
    needed = f"{megabytes(counts.total_bytes)} of the device's {megabytes(available)} (hardware.memory_gb)"
    hint = "lower it to accumulate gradients, or use a smaller model"
    if plan.topology.world > 1:
        hint += ", or try parallel=auto"
    raise PlanError(
        [f"batch_size_per_device={plan.batch_size_per_device} needs {needed}; {hint}"],
        f"the plan for '{plan.name}'",
    )


def refuse_if_too_large(config: Mapping[str, Any], plan: Plan, trust: Collection[str] = ()) -> None:
    """Refuse a training that needs more memory than a device has; ignores every other problem.

    Raises:
        PlanError: it needs too much memory.
    """
    try:
        counts = estimate(config, plan, trust)
    except PlanError:  # some models need real values; other errors appear when the components are built
        return
    check_memory(counts, plan, config["hardware"])


def flops_per_step(config: Mapping[str, Any], plan: Plan, trust: Collection[str] = ()) -> int | None:
    """FLOPs of one update, a multiply-add counting as two; None for a model that needs real values."""
    try:
        return estimate(config, plan, trust).flops_per_step
    except PlanError:
        return None


def megabytes(number: float) -> str:
    return f"{number / 1e6:,.0f} MB" if number >= 1e6 else f"{number / 1e6:.1g} MB"


def resolve_device(hardware: Mapping[str, Any]) -> str:
    """The kind of device: "cpu" or "cuda"."""
    if hardware["device"] == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return str(hardware["device"])


def memory_bytes(hardware: Mapping[str, Any]) -> float:
    """Memory of one device: hardware.memory_gb, else this machine's; ranks on a CPU share its memory."""
    if hardware["memory_gb"] is not None:
        return float(hardware["memory_gb"]) * 1e9
    if hardware["device"] != "cpu" and torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(psutil.virtual_memory().total / hardware.get("devices_per_node", 1))


def make_machine(hardware: Mapping[str, Any]) -> Machine:
    """The machine of the cost model; a missing value has the same default on every machine."""
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
    """Processes that run at once on a node's cores."""
    cores = int(hardware.get("cpu_cores") or psutil.cpu_count() or 1)
    threads = int(hardware.get("cpu_threads") or max(1, cores // hardware["devices_per_node"]))
    return max(1.0, cores / threads)


def seconds_per_step(counts: ResourceEstimate, hardware: Mapping[str, Any]) -> float:
    """Estimated time of a step: from the cost model if there are several ranks, else the FLOPs divided by peak and MFU.

    Without hardware.peak_tflops, a short matrix product on this machine measures the peak.
    """
    if counts.cost is not None:
        return counts.cost.total_s
    peak_tflops = hardware["peak_tflops"] or _matmul_tflops(hardware["device"])
    return float(counts.flops_per_step / (peak_tflops * 1e12 * hardware["mfu"])) + STEP_S


def _matmul_tflops(device: str, size: int = 512, seconds: float = 0.2) -> float:
    """The best of many short products, because a busy machine interrupts most of them."""
    cuda = device != "cpu" and torch.cuda.is_available()
    matrix = torch.ones(size, size, device="cuda" if cuda else "cpu")
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e12


def _describe_shapes(batch: Tree) -> str:
    """The shapes of a batch, such as ``inputs [64, 1, 8, 8], targets [64]``."""
    is_pair = isinstance(batch, tuple) and len(batch) == 2
    named = {"inputs ": batch[0], "targets ": batch[1]} if is_pair else {"": batch}
    return ", ".join(
        name + ", ".join(str(list(leaf.shape)) for leaf in tree_leaves(part)) for name, part in named.items()
    )
