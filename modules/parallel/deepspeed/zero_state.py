"""Gathers and restores the state of a model that ZeRO has partitioned, by parameter name.

It reads DeepSpeed's flat partitions and the position of each parameter in them, and sends a partition as one message. DeepSpeed's
functions `deepspeed.utils.safe_set_full_*` (0.19.8) fail under stage 3 if the number of replicas does not divide the size of a
parameter, and have no state before the first step of the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from deepspeed.runtime.zero.partition_parameters import GatheredParameters
from torch import Tensor
from torch.optim import Optimizer

from modules.parallel.checkpoint_format import SavedState, TrainingState, copy_to_cpu
from modules.parallel.process_groups import ProcessGroups
from modules.parallel.tensor_parallel.shard_model import Shards


class Fragment(NamedTuple):
    """The part of a parameter that is in this rank's flat partition of a parameter group."""

    name: str
    group: int
    offset: int
    """First index in the partition."""
    start: int
    """First index in the flattened parameter."""
    length: int


def collect(
    engine: Any,
    stage: int,
    tensors: Mapping[str, Tensor],
    optimizer_name: str,
    shards: Shards | None,
    ranks: ProcessGroups,
    with_entries: bool = True,
) -> TrainingState | None:
    """Gather the state of the whole model on rank 0; None on other ranks. Call it on all ranks.

    Args:
        engine: DeepSpeed's engine.
        stage: ZeRO stage.
        tensors: parameters and buffers of this rank, by name.
        optimizer_name: name of the optimizer's class.
        shards: how layers are split; None if they are whole.
        ranks: the process groups.
        with_entries: gather the optimizer state too.
    """
    weights = {name: copy_to_cpu(tensor) for name, tensor in tensors.items() if not hasattr(tensor, "ds_id")}
    entries: dict[str, dict[str, Tensor | float]] = {}
    if stage == 0:
        own = engine.optimizer.state
        entries = {name: dict(own[tensor]) for name, tensor in tensors.items() if with_entries and tensor in own}
    else:
        entries = _gather_entries(engine, stage, tensors, ranks, with_entries)
        weights |= _take_weights(entries)  # of stage 3, which partitions them
    if ranks.coordinates.data > 0:
        return None
    # Optimizer state has the same keys between ranks as in the file: "<parameter>.<entry>".
    state = {
        f"{name}.{key}": torch.as_tensor(value).cpu() for name, own in entries.items() for key, value in own.items()
    }
    if shards is not None:
        weights = {name: shards.gather_whole(name, weight) for name, weight in weights.items()}
        state = {
            entry: shards.gather_whole(name, value)
            if value.shape == _full_shape(tensors[name]) and value.dim()
            else value
            for entry, value in state.items()
            for name in [entry.rpartition(".")[0]]
        }
    if ranks.coordinates.model > 0:
        return None
    weights, state = ranks.gather_to_first_stage(weights), ranks.gather_to_first_stage(state)
    if ranks.number > 0:
        return None
    whole = TrainingState({name: copy_to_cpu(weight) for name, weight in weights.items()}, optimizer_name, {})
    for entry, value in state.items():
        name, _, key = entry.rpartition(".")
        whole.entries.setdefault(name, {})[key] = copy_to_cpu(value)
    return whole


WEIGHT = "weight of stage 3"
"""Key of the parameter itself among the entries of its optimizer state."""


def _take_weights(entries: dict[str, dict[str, Tensor | float]]) -> dict[str, Tensor]:
    """Remove the weights from the entries and return them."""
    return {name: torch.as_tensor(own.pop(WEIGHT)) for name, own in entries.items() if WEIGHT in own}


def _full_shape(tensor: Tensor) -> torch.Size:
    """Shape of a parameter, also if ZeRO 3 has released its content."""
    return torch.Size(getattr(tensor, "ds_shape", tensor.shape))


def _gather_entries(
    engine: Any, stage: int, tensors: Mapping[str, Tensor], ranks: ProcessGroups, with_entries: bool
) -> dict[str, dict[str, Tensor | float]]:
    """Gather the optimizer state of each parameter on the first replica. Call it on all replicas.

    Under stage 3 the entries include the weights, also frozen ones.
    """
    partitions, states = _partitions(engine, stage), _inner_optimizer(engine).state
    fragments = _find_fragments(engine, stage, tensors, ranks)
    all_fragments = [
        [Fragment(*fields) for fields in replica] for replica in ranks.gather_json_to_first_replica(fragments)
    ]
    entries: dict[str, dict[str, Tensor | float]] = {}
    keys = {key for flat in partitions for key in states.get(flat, {})} if with_entries else set()
    partitioned = {
        key for flat in partitions for key, value in states.get(flat, {}).items() if _has_shape_of(flat, value)
    } & keys
    vectors: dict[str, list[Tensor]] = {key: [states[flat][key] for flat in partitions] for key in sorted(partitioned)}
    if stage == 3:
        vectors[WEIGHT] = list(partitions)
    lengths = [[fragment.length for fragment in replica] for replica in all_fragments]
    for key, own in vectors.items():
        parts = [own[fragment.group].narrow(0, fragment.offset, fragment.length) for fragment in fragments]
        vector = torch.cat(parts).detach().cpu() if parts else torch.empty(0)
        received = ranks.gather_to_first_replica(vector, [sum(each) for each in lengths])
        for replica, replica_lengths, flat in zip(all_fragments, lengths, received, strict=True):
            for fragment, piece in zip(replica, flat.split(replica_lengths), strict=True):  # type: ignore[no-untyped-call]
                shape = _full_shape(tensors[fragment.name])
                whole = entries.setdefault(fragment.name, {}).setdefault(key, torch.empty(shape))
                assert isinstance(whole, Tensor)
                whole.view(-1)[fragment.start : fragment.start + fragment.length] = piece
    if ranks.coordinates.data == 0:
        groups = _groups(engine, stage)
        for name, tensor in tensors.items():
            for key in keys - partitioned if id(tensor) in groups else ():
                entries.setdefault(name, {})[key] = states[partitions[groups[id(tensor)]]][key]
    for name, tensor in tensors.items():
        if hasattr(tensor, "ds_id") and not tensor.requires_grad:
            with GatheredParameters([tensor]):
                entries[name] = {WEIGHT: copy_to_cpu(tensor)}
    return entries


def _has_shape_of(flat: Tensor, value: Any) -> bool:
    return isinstance(value, Tensor) and value.shape == flat.shape


def _find_fragments(engine: Any, stage: int, tensors: Mapping[str, Tensor], ranks: ProcessGroups) -> list[Fragment]:
    """Find the parameters in this rank's partitions."""
    fragments: list[Fragment] = []
    groups = _groups(engine, stage)
    names = {id(tensor): name for name, tensor in tensors.items()}
    if stage < 3:
        for key, group in groups.items():
            name = names[key]
            mapping = tensors[name]._hp_mapping  # type: ignore[attr-defined]
            if mapping is not None:  # None: no part of it is in this rank's partition
                own, whole = mapping.hp_fragment_address, mapping.lp_fragment_address
                fragments.append(Fragment(name, group, own.start, whole.start, own.numel))
        return fragments
    offsets: dict[int, int] = {}
    for key, group in groups.items():
        parameter: Any = tensors[names[key]]
        size = parameter.partition_numel()
        start = min(ranks.coordinates.data * size, parameter.ds_numel)
        length = min(size, parameter.ds_numel - start)
        fragments.append(Fragment(names[key], group, offsets.get(group, 0), start, length))
        offsets[group] = offsets.get(group, 0) + size
    return fragments


def restore(
    engine: Any,
    stage: int,
    tensors: Mapping[str, Tensor],
    saved: SavedState,
    part: Callable[[str, Tensor], Tensor],
    ranks: ProcessGroups,
) -> None:
    """Bring a saved state into an engine.

    Args:
        engine: DeepSpeed's, prepared.
        stage: ZeRO stage, 1 to 3.
        tensors: parameters and buffers of this rank, by name.
        saved: already checked with `SavedState.check`.
        part: takes this rank's slice of a whole tensor under model parallelism.
        ranks: the process groups.
    """
    partitions, states = _partitions(engine, stage), _inner_optimizer(engine).state
    partitioned = saved.parameter_shaped_keys()
    _initialize_state(engine, stage, tensors, saved)
    with torch.no_grad():
        for name, tensor in tensors.items():
            if hasattr(tensor, "ds_id"):
                # Every replica writes the same values; at the end of the context each keeps its own part.
                with GatheredParameters([tensor], modifier_rank=0):
                    tensor.copy_(part(name, saved.weight(name)))
            else:
                tensor.copy_(part(name, saved.weight(name)))
        for fragment in _find_fragments(engine, stage, tensors, ranks):
            name, flat = fragment.name, partitions[fragment.group]
            _copy_fragment(flat, fragment, part(name, saved.weight(name)))
            for key in partitioned.intersection(saved.keys(name)):
                _copy_fragment(states[flat][key], fragment, part(name, torch.as_tensor(saved.entry(name, key))))


def _copy_fragment(flat: Tensor, fragment: Fragment, whole: Tensor) -> None:
    """Copy this rank's part of a parameter, or of optimizer state of the same shape, into a flat partition."""
    own = whole.reshape(-1).narrow(0, fragment.start, fragment.length)
    flat.narrow(0, fragment.offset, fragment.length).copy_(own)


def _initialize_state(engine: Any, stage: int, tensors: Mapping[str, Tensor], saved: SavedState) -> None:
    """Give each flat partition the state entries that its optimizer has after a step."""
    partitions, groups, partitioned = _partitions(engine, stage), _groups(engine, stage), saved.parameter_shaped_keys()
    steps_on_device = any(
        group.get("fused") or group.get("capturable") for group in _inner_optimizer(engine).param_groups
    )
    for name, tensor in tensors.items():
        if tensor.requires_grad:
            flat = partitions[groups[id(tensor)]]
            own = _inner_optimizer(engine).state[flat]
            for key in saved.keys(name):
                if key not in partitioned:
                    value = saved.entry(name, key)
                    own[key] = value.to(flat.device) if isinstance(value, Tensor) and steps_on_device else value
                elif key not in own:
                    own[key] = torch.zeros_like(flat)


def _inner_optimizer(engine: Any) -> Optimizer:
    """The torch optimizer that updates the flat partitions."""
    optimizer: Optimizer = engine.optimizer.optimizer
    return optimizer


def _partitions(engine: Any, stage: int) -> list[Tensor]:
    """This rank's flat partitions, one per parameter group."""
    optimizer = engine.optimizer
    return list(optimizer.single_partition_of_fp32_groups if stage < 3 else optimizer.fp32_partitioned_groups_flat)


def _groups(engine: Any, stage: int) -> dict[int, int]:
    """Group index of each trained parameter by its id, in the order of the flat partitions."""
    groups = engine.optimizer.bit16_groups if stage < 3 else engine.optimizer.fp16_groups
    return {id(parameter): index for index, group in enumerate(groups) for parameter in group}
