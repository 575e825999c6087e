"""The rules of a topology: how ranks use the devices and split the batch. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from math import prod
from typing import Any

from experiments.config.rules.base import ConfigView, NotApplicable
from experiments.config.rules.engine import read_declared
from modules.parallel.deepspeed.config import check_extra
from modules.parallel.topology import AXES, Axis, Meaning, Topology

SINGLE = "modules.parallel.single.Single"
MAX_DISTANCE = 10_000
"""How far from the user's number a divisor is searched."""
MICRO_BATCHES_PER_STAGE = 4
"""The default of a pipeline; its ideal bubble is then below a fifth of a step."""


SPARSE_OPTIMIZERS = ("SGD", "Adagrad", "SparseAdagrad", "SparseAdam")


def resolve_topology(view: ConfigView) -> Topology:
    """The topology of a configuration, with "auto" replaced by the devices that the other axes leave.

    Raises:
        NotApplicable: it does not fit the devices; a rule reports why.
    """
    degrees, devices = _degrees(view), view.devices()
    fixed_ranks = prod(degree for degree in degrees.values() if degree is not None)
    free = [axis for axis, degree in degrees.items() if degree is None]
    if len(free) > 1 or (devices % fixed_ranks if free else devices != fixed_ranks):
        raise NotApplicable
    return Topology(**{axis: devices // fixed_ranks if degree is None else degree for axis, degree in degrees.items()})


def num_batch_shards(view: ConfigView, topology: Topology) -> int:
    """Number of equal shards of a step's batch: one per replica, without the backup workers."""
    return topology.data - (view.setting("num_backup_workers", int) if view.engine.has("num_backup_workers") else 0)


def num_micro_batches(share: int, num_stages: int) -> int:
    """The default number of micro-batches of a replica: one, or enough to keep a pipeline busy."""
    most = min(share, MICRO_BATCHES_PER_STAGE * num_stages) if num_stages > 1 else 1
    return next(count for count in range(most, 0, -1) if share % count == 0)


def is_auto(config: Mapping[str, Any]) -> bool:
    """True if the layout is not chosen yet (`parallel=auto`)."""
    node = config.get("parallel")
    return isinstance(node, dict) and read_declared(str(node.get("_target_")), "chooses_layout") is True


def _degrees(view: ConfigView) -> dict[Axis, int | None]:
    """Size of every axis, None for "auto"; 1 for an axis that the engine does not have."""
    view.get("parallel", dict)
    if is_auto(view.config):
        raise NotApplicable
    return {
        axis: 1
        if not view.engine.has(axis)
        else None
        if view.engine.get(axis) == "auto"
        else view.setting_integer(axis)
        for axis in AXES
    }


def _devices(view: ConfigView) -> str | None:
    degrees, devices = _degrees(view), view.devices()
    free = [axis for axis, degree in degrees.items() if degree is None]
    fixed_ranks = prod(degree for degree in degrees.values() if degree is not None)
    axes, names = [axis for axis in AXES if view.engine.has(axis)], {axis: _name(view, axis) for axis in AXES}
    axes_text = " x ".join(f"{names[axis]}={'auto' if degrees[axis] is None else degrees[axis]}" for axis in axes)
    has = f"hardware has {devices} device{'s'[: devices > 1]} ({view.hardware()})"
    if not axes:
        hint = "set both to 1, or use parallel=data"
        engine = "parallel=single" if view.engine.target == SINGLE else f"parallel._target_={view.engine.target}"
        return f"{has}, but {engine} uses one; {hint}" if devices > 1 else None
    if len(free) > 1:
        return f"parallel {axes_text}: only one axis can be auto; set {' or '.join(names[axis] for axis in free)} to a number"
    if fixed_ranks > devices:
        hint = (
            f"set hardware.devices_per_node={fixed_ranks}" if view.integer("hardware.nodes") == 1 else "use more nodes"
        )
        return f"parallel {axes_text} is {fixed_ranks} ranks, one per device, but {has}; {hint}, or lower a degree"
    if devices % fixed_ranks:
        hint = _nearest_degrees(view, degrees, devices)
        return f"parallel {axes_text}: {has}, which is not a multiple of {fixed_ranks}; {hint}"
    if not free and fixed_ranks < devices:
        axis: Axis = "data" if "data" in axes else axes[0]  # more replicas, if the engine has them
        key = view.engine.key(axis)
        hint = f"set {key}={(degrees[axis] or 1) * (devices // fixed_ranks)}, or {key}=auto"
        return f"parallel {axes_text} is {fixed_ranks} ranks, one per device, but {has}; {hint}"
    return None


def _name(view: ConfigView, meaning: Meaning) -> str:
    return view.engine.key(meaning).removeprefix("parallel.")


def _nearest_degrees(view: ConfigView, degrees: dict[Axis, int | None], devices: int) -> str:
    axis, degree = max(((axis, degree or 1) for axis, degree in degrees.items()), key=lambda pair: pair[1])
    return f"try {view.engine.key(axis)}={divisors(devices, degree)}"


def _split(view: ConfigView) -> str | None:
    batch_size, topology = view.integer("batch_size_global"), resolve_topology(view)
    shares = num_batch_shards(view, topology)
    if shares < 1 or batch_size % shares == 0:
        return None
    data, backup = view.engine.key("data"), view.engine.key("num_backup_workers")
    over = "devices" if topology.world == topology.data else f"replicas ({data})"
    over = f"replicas ({data} - {backup})" if shares < topology.data else over
    hint = f"try {multiples(batch_size, shares)}"
    return f"batch_size_global={batch_size} cannot be split over {shares} {over}; {hint}"


def _micro_batch(view: ConfigView) -> str | None:
    batch_size, topology = view.integer("batch_size_global"), resolve_topology(view)
    micro = view.integer_or_none("batch_size_per_device")
    shares = num_batch_shards(view, topology)
    if shares < 1:
        return None
    share = batch_size // shares
    if micro is None or batch_size % shares or share % micro == 0:
        return None
    batch_text = f"batch_size_global={batch_size}"
    if share != batch_size:
        batch_text = f"{share}, the device's share of {batch_text}"
    return f"batch_size_per_device={micro} does not divide {batch_text}; try {divisors(share, micro)}"


def _partition(view: ConfigView) -> str | None:
    """Stages that the user sets; the number of layers is checked when the model is built."""
    firsts, topology = view.setting("partition", list), resolve_topology(view)
    setting = f"{view.engine.key('partition')}={firsts}"
    if len(firsts) != topology.pipe:
        hint = "write the first layer of every stage"
        return f"{setting} has {len(firsts)} stages, but {view.engine.key('pipe')}={topology.pipe}; {hint}"
    if firsts[0] != 0 or any(one >= two for one, two in pairwise(firsts)):
        return f"{setting} does not start at 0 and increase; write the first layer of every stage, as in [0, 3, 5]"
    return None


def _offload(view: ConfigView) -> str | None:
    offload, stage = view.setting("offload", str), view.setting_integer("stage")
    least = {"optimizer": 1, "weights_and_optimizer": 3}.get(offload, 0)
    if stage >= least:
        return None
    stage_key, offload_key = view.engine.key("stage"), view.engine.key("offload")
    hint = f"set {stage_key}={least}, or {offload_key}=none"
    return f"{offload_key}={offload} needs ZeRO stage {least}, but {stage_key}={stage}; {hint}"


def _fp16(view: ConfigView) -> str | None:
    if view.get("precision", str) != "fp16" or view.get("hardware.device", str) != "cpu":
        return None
    return "precision=fp16 needs a GPU, but hardware.device=cpu; use precision=bf16, which also needs no loss scale"


def _compile(view: ConfigView) -> str | None:
    if view.get("compile", bool) is not True:
        return None
    if resolve_topology(view).pipe > 1:
        return "compile=true needs the whole model on one rank, but a pipeline splits it; set compile=false"
    if view.engine.get("stage") == 3:
        return "compile=true cannot compile the hooks that fetch weights in ZeRO 3; set compile=false, or use parallel=zero2"
    return None


def _sparse(view: ConfigView) -> list[str]:
    """What torch 2.13 and DeepSpeed 0.19.8 cannot do with sparse gradients."""
    is_sparse = view.get("model", dict).get("sparse_gradients") is True
    target = view.get("optimizer._target_", str)
    if not is_sparse:
        setting = f"optimizer._target_={target} accepts only sparse gradients"
        hint = "use a model with sparse_gradients=true, or optimizer=adam"
        return [f"{setting}; {hint}"] if target.endswith(".SparseAdam") else []
    setting, otherwise, problems = "model.sparse_gradients=true", "or set model.sparse_gradients=false", list[str]()
    optimizer, name = view.get("optimizer", dict), target.rpartition(".")[2]
    if target.startswith("torch.optim.") and name not in SPARSE_OPTIMIZERS:
        known = ", ".join(SPARSE_OPTIMIZERS)
        problems.append(
            f"{setting}: {name} does not accept them, but {known} do; use optimizer=sparse_adagrad, {otherwise}"
        )
    if name in ("SGD", "Adagrad", "SparseAdagrad") and optimizer.get("weight_decay"):
        problems.append(f"{setting}: weight decay changes every row; set optimizer.weight_decay=0, {otherwise}")
    if name == "SGD" and optimizer.get("momentum"):
        problems.append(f"{setting}: momentum changes every earlier row; set optimizer.momentum=0, {otherwise}")
    if view.get("grad_clip_norm", int, float, type(None)) is not None:
        problems.append(f"{setting}: torch does not clip them; set grad_clip_norm=null, {otherwise}")
    if view.engine.has("num_servers"):
        problems.append(f"{setting}: parameter servers need dense gradients; use parallel=data, {otherwise}")
    elif view.engine.has("stage"):
        problems.append(f"{setting}: DeepSpeed's engines send dense gradients; use parallel=data, {otherwise}")
    elif resolve_topology(view).data > 1 and view.get("hardware.device", str) == "cuda":
        problems.append(f"{setting}: NCCL sends dense gradients between GPUs; use one device, {otherwise}")
    return problems


def _extra(view: ConfigView) -> list[str]:
    return check_extra(view.setting("deepspeed_extra", dict))


RULES: tuple[Callable[[ConfigView], str | list[str] | None], ...] = (
    _devices, _split, _micro_batch, _partition, _offload, _fp16, _compile, _sparse, _extra,
)  # fmt: skip


def multiples(value: int, step: int) -> str:
    below, above = value // step * step, -(-value // step) * step
    return f"{below} or {above}" if below else str(above)


def divisors(share: int, wanted: int) -> str:
    """The nearest divisors on both sides; 1 and ``share`` itself if none is near."""
    start = min(wanted, share)
    below = next((d for d in range(start, max(0, start - MAX_DISTANCE), -1) if share % d == 0), 1)
    above = next((d for d in range(start, min(share, start + MAX_DISTANCE) + 1) if share % d == 0), share)
    return f"{below} or {above}" if below != above else str(below)
