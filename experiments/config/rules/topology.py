"""How ranks are arranged on the hardware and share the batch: every rule that a topology has to keep. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from math import prod
from typing import Any

from experiments.config.rules.base import ConfigView, NotApplicable
from modules.parallel.deepspeed.config import check_extra
from modules.parallel.topology import AXES, Topology

AUTO = "modules.parallel.auto.Auto"
FARTHEST = 10_000
"""How far a number that would do is looked for; farther away it helps nobody."""
MICRO_BATCHES_PER_STAGE = 4
"""What a pipeline is filled with where nobody says: its ideal bubble is then below a fifth of a step."""


ELEMENTWISE = (
    "SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "SparseAdagrad", "Adadelta", "ASGD",
    "Rprop",
)  # fmt: skip
"""Optimizers that come out the same on any slice of a weight."""


TAKE_SPARSE = ("SGD", "Adagrad", "SparseAdagrad", "SparseAdam")


def topology_of(facts: ConfigView) -> Topology:
    """The arrangement that is asked for, "auto" replaced by what the other axes leave of the devices.

    Raises:
        NotJudgedError: it does not fit the devices; a rule tells why.
    """
    degrees, devices = _degrees(facts), facts.devices()
    given = prod(degree for degree in degrees.values() if degree is not None)
    free = [axis for axis, degree in degrees.items() if degree is None]
    if len(free) > 1 or (devices % given if free else devices != given):
        raise NotApplicable
    return Topology(**{axis: devices // given if degree is None else degree for axis, degree in degrees.items()})


def num_shares(facts: ConfigView, topology: Topology) -> int:
    """Equal shares that a step's batch is cut into: one a replica, but for those that only stand by."""
    return topology.data - (facts.get("parallel.num_backup_workers", int) if is_served(facts) else 0)


def is_served(facts: ConfigView) -> bool:
    """Whether parameter servers hold the weights."""
    return "num_servers" in facts.get("parallel", dict)


def num_micro_batches(share: int, num_stages: int) -> int:
    """Micro-batches of a replica's share of the batch where nobody says: one, or what keeps a pipeline busy."""
    most = min(share, MICRO_BATCHES_PER_STAGE * num_stages) if num_stages > 1 else 1
    return next(count for count in range(most, 0, -1) if share % count == 0)


def is_open(config: Mapping[str, Any]) -> bool:
    """True where the layout is still to be chosen."""
    node = config.get("parallel")
    return isinstance(node, dict) and node.get("_target_") == AUTO


def _degrees(facts: ConfigView) -> dict[str, int | None]:
    """Length of every axis, None where it is "auto"; an engine without an axis has 1 along it."""
    node = facts.get("parallel", dict)
    if is_open(facts.config):
        raise NotApplicable
    return {
        axis: 1 if axis not in node else None if node[axis] == "auto" else facts.whole(f"parallel.{axis}")
        for axis in AXES
    }


def _devices(facts: ConfigView) -> str | None:
    degrees, devices = _degrees(facts), facts.devices()
    free = [axis for axis, degree in degrees.items() if degree is None]
    given = prod(degree for degree in degrees.values() if degree is not None)
    axes = [axis for axis in AXES if axis in facts.config["parallel"]]
    asked = " x ".join(f"{axis}={'auto' if degrees[axis] is None else degrees[axis]}" for axis in axes)
    has = f"hardware has {devices} ({facts.hardware()})"
    if not axes:
        way_out = "set both to 1, or take parallel=data"
        told = f"hardware {facts.hardware()} are {devices} devices, and parallel=single uses one; {way_out}"
        return told if devices > 1 else None
    if len(free) > 1:
        return f"parallel {asked}: only one axis can take what the others leave; give {' or '.join(free)} a number"
    if given > devices:
        way_out = f"set hardware.devices_per_node={given}" if facts.whole("hardware.nodes") == 1 else "take more nodes"
        return f"parallel {asked} is {given} ranks, one a device, but {has}; {way_out}, or lower a degree"
    if devices % given:
        return f"parallel {asked}: {has}, which {given} does not divide; {_nearest_degrees(degrees, devices)}"
    if not free and given < devices:
        return (
            f"parallel {asked} is {given} ranks, one a device, but {has}; {_filling(degrees, axes, devices // given)}"
        )
    return None


def _nearest_degrees(degrees: dict[str, int | None], devices: int) -> str:
    axis, degree = max(((axis, degree or 1) for axis, degree in degrees.items()), key=lambda pair: pair[1])
    return f"try parallel.{axis}={divisors(devices, degree)}"


def _filling(degrees: dict[str, int | None], axes: list[str], factor: int) -> str:
    """The axis that could take the rest: replicas where the engine has them."""
    axis = "data" if "data" in axes else axes[0]
    return f"set parallel.{axis}={(degrees[axis] or 1) * factor}, or parallel.{axis}=auto"


def _split(facts: ConfigView) -> str | None:
    batch_size, topology = facts.whole("batch_size_global"), topology_of(facts)
    shares = num_shares(facts, topology)
    if shares < 1 or batch_size % shares == 0:
        return None
    over = "devices" if topology.world == topology.data else "replicas (parallel.data)"
    over = "replicas (parallel.data - parallel.num_backup_workers)" if shares < topology.data else over
    way_out = f"try {multiples(batch_size, shares)}"
    return f"batch_size_global={batch_size} cannot be split over {shares} {over}; {way_out}"


def _micro_batch(facts: ConfigView) -> str | None:
    batch_size, topology = facts.whole("batch_size_global"), topology_of(facts)
    micro = facts.whole_or_none("batch_size_per_device")
    shares = num_shares(facts, topology)
    if shares < 1:
        return None
    share = batch_size // shares
    if micro is None or batch_size % shares or share % micro == 0:
        return None
    whole = f"batch_size_global={batch_size}"
    if share != batch_size:
        whole = f"{share}, the device's share of {whole}"
    return f"batch_size_per_device={micro} does not divide {whole}; try {divisors(share, micro)}"


def _partition(facts: ConfigView) -> str | None:
    """Stages by hand; whether the model has so many layers is judged where it is built."""
    firsts, topology = facts.get("parallel.partition", list), topology_of(facts)
    told = f"parallel.partition={firsts}"
    if len(firsts) != topology.pipe:
        way_out = "write the first layer of every stage"
        return f"{told} names {len(firsts)} stages, and parallel.pipe={topology.pipe}; {way_out}"
    if firsts[0] != 0 or any(one >= two for one, two in pairwise(firsts)):
        return f"{told} does not rise from 0; write the first layer of every stage, as in [0, 3, 5]"
    return None


def _offload(facts: ConfigView) -> str | None:
    offload, stage = facts.get("parallel.offload", str), facts.whole("parallel.stage")
    least = {"optimizer": 1, "weights_and_optimizer": 3}.get(offload, 0)
    if stage >= least:
        return None
    way_out = f"set parallel.stage={least}, or parallel.offload=none"
    return f"parallel.offload={offload} needs ZeRO stage {least}, and parallel.stage={stage}; {way_out}"


def _stage_of_pipeline(facts: ConfigView) -> str | None:
    node = facts.get("parallel", dict)
    if "partition" not in node or "stage" not in node:
        return None
    rule = "a pipeline sends what ZeRO 2 and 3 have given away, and under stage 0 DeepSpeed 0.19.8 clips by a part of the norm"
    return f"parallel.stage={node['stage']}: {rule}; leave it out, as pipelines run under stage 1"


def _fp16(facts: ConfigView) -> str | None:
    if facts.get("precision", str) != "fp16" or facts.get("hardware.device", str) != "cpu":
        return None
    return "precision=fp16 needs a GPU, and hardware.device=cpu; take precision=bf16, which needs no loss scale either"


def _compile(facts: ConfigView) -> str | None:
    if facts.get("compile", bool) is not True:
        return None
    node = facts.get("parallel", dict)
    if "partition" in node and topology_of(facts).pipe > 1:
        return "compile=true compiles a whole model, and a pipeline has only parts of it; set compile=false"
    if node.get("stage") == 3:
        return "compile=true would compile the hooks by which ZeRO 3 fetches weights; set compile=false, or take parallel=zero2"
    return None


def _optimizer(facts: ConfigView) -> str | None:
    """ZeRO steps over flat slices, model parallelism over slices: only what treats every number alike comes out right."""
    target, node = facts.get("optimizer._target_", str), facts.get("parallel", dict)
    has_slices = node.get("stage", 0) != 0 or "partition" in node or topology_of(facts).model > 1
    if not has_slices or target.rpartition(".")[2] in ELEMENTWISE:
        return None
    rule = f"sees slices of the weights there, and is not known to treat every number alike, as {', '.join(ELEMENTWISE)} do"
    return f"optimizer._target_={target} {rule}; take one of them, parallel=data or parallel=zero0"


def _sparse(facts: ConfigView) -> list[str]:
    """Sparse gradients, of which torch 2.13 and DeepSpeed 0.19.8 know little: what they cannot do, told before a step is."""
    is_sparse = facts.get("model", dict).get("sparse_gradients") is True
    target = facts.get("optimizer._target_", str)
    if not is_sparse:
        told = f"optimizer._target_={target} takes sparse gradients alone"
        way_out = "take a model with sparse_gradients=true, or optimizer=adam"
        return [f"{told}; {way_out}"] if target.endswith(".SparseAdam") else []
    told, otherwise, problems = "model.sparse_gradients=true", "or set model.sparse_gradients=false", list[str]()
    optimizer, name = facts.get("optimizer", dict), target.rpartition(".")[2]
    if target.startswith("torch.optim.") and name not in TAKE_SPARSE:
        known = ", ".join(TAKE_SPARSE)
        problems.append(f"{told}: {name} does not take them, as {known} do; take optimizer=sparse_adagrad, {otherwise}")
    if name in ("SGD", "Adagrad", "SparseAdagrad") and optimizer.get("weight_decay"):
        problems.append(f"{told}: weight decay changes every row; set optimizer.weight_decay=0, {otherwise}")
    if name == "SGD" and optimizer.get("momentum"):
        problems.append(f"{told}: momentum moves every row there was; set optimizer.momentum=0, {otherwise}")
    if facts.get("grad_clip_norm", int, float, type(None)) is not None:
        problems.append(f"{told}: torch does not clip them; set grad_clip_norm=null, {otherwise}")
    node = facts.get("parallel", dict)
    if is_served(facts):
        problems.append(f"{told}: parameter servers take whole gradients; take parallel=data, {otherwise}")
    elif "stage" in node or "partition" in node:
        problems.append(f"{told}: DeepSpeed's engines send whole gradients; take parallel=data, {otherwise}")
    elif topology_of(facts).data > 1 and facts.get("hardware.device", str) == "cuda":
        problems.append(f"{told}: NCCL sends whole gradients between GPUs; take one device, {otherwise}")
    return problems


def _extra(facts: ConfigView) -> list[str]:
    return check_extra(facts.get("parallel.deepspeed_extra", dict))


RULES: tuple[Callable[[ConfigView], str | list[str] | None], ...] = (
    _devices, _split, _micro_batch, _partition, _stage_of_pipeline, _offload, _fp16, _compile, _optimizer, _sparse, _extra,
)  # fmt: skip


def multiples(value: int, step: int) -> str:
    below, above = value // step * step, -(-value // step) * step
    return f"{below} or {above}" if below else str(above)


def divisors(share: int, wanted: int) -> str:
    """The nearest divisors on both sides; where none is near, 1 and the share, which always are."""
    start = min(wanted, share)
    below = next((d for d in range(start, max(0, start - FARTHEST), -1) if share % d == 0), 1)
    above = next((d for d in range(start, min(share, start + FARTHEST) + 1) if share % d == 0), share)
    return f"{below} or {above}" if below != above else str(below)
