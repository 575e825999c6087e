"""The state of a model that ZeRO has partitioned, gathered by the parameters' names and put back.

Goes by DeepSpeed's flat slices and where each parameter lies in them, and sends a slice as one message. (DeepSpeed's own access,
`deepspeed.utils.safe_set_full_*`, fails under stage 3 where replicas do not divide a parameter's size, and knows no state of an
optimizer that has not stepped yet; 0.19.8.)
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
    """A part of a parameter in this rank's flat slice of a group of parameters."""

    name: str
    group: int
    offset: int
    """Where it begins in the slice."""
    start: int
    """Where it begins in the flattened parameter."""
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
    """The state of the whole model on rank 0; all ranks call it.

    Args:
        engine: DeepSpeed's.
        stage: of ZeRO.
        tensors: parameters and buffers of this rank, by name.
        optimizer_name: of its class.
        shards: how layers are split; None where they are whole.
        ranks: all that take part.
        with_entries: the optimizer's state too.
    """
    weights = {name: copy_to_cpu(tensor) for name, tensor in tensors.items() if not hasattr(tensor, "ds_id")}
    entries: dict[str, dict[str, Tensor | float]] = {}
    if stage == 0:
        own = engine.optimizer.state
        entries = {name: dict(own[tensor]) for name, tensor in tensors.items() if with_entries and tensor in own}
    else:
        entries = _gathered(engine, stage, tensors, ranks, with_entries)
        weights |= _weights_of(entries)  # which stage 3 keeps in slices
    if ranks.coordinates.data > 0:
        return None
    # A tensor of the optimizer's state goes under "<parameter>.<entry>", between ranks as in the file.
    state = {
        f"{name}.{key}": torch.as_tensor(value).cpu() for name, found in entries.items() for key, value in found.items()
    }
    if shards is not None:
        weights = {name: shards.whole(name, weight) for name, weight in weights.items()}
        state = {
            full: shards.whole(name, value) if value.shape == _shape(tensors[name]) and value.dim() else value
            for full, value in state.items()
            for name in [full.rpartition(".")[0]]
        }
    if ranks.coordinates.model > 0:
        return None
    weights, state = ranks.to_first_stage(weights), ranks.to_first_stage(state)
    if ranks.number > 0:
        return None
    found = TrainingState({name: copy_to_cpu(weight) for name, weight in weights.items()}, optimizer_name, {})
    for full, value in state.items():
        name, _, key = full.rpartition(".")
        found.entries.setdefault(name, {})[key] = copy_to_cpu(value)
    return found


WEIGHT = "weight of stage 3"
"""Stands among the entries of a parameter for the parameter itself."""


def _weights_of(entries: dict[str, dict[str, Tensor | float]]) -> dict[str, Tensor]:
    """Take the weights out of the entries."""
    return {name: torch.as_tensor(found.pop(WEIGHT)) for name, found in entries.items() if WEIGHT in found}


def _shape(tensor: Tensor) -> torch.Size:
    """Shape of a parameter, also where ZeRO 3 has taken its content away."""
    return torch.Size(getattr(tensor, "ds_shape", tensor.shape))


def _gathered(
    engine: Any, stage: int, tensors: Mapping[str, Tensor], ranks: ProcessGroups, with_entries: bool
) -> dict[str, dict[str, Tensor | float]]:
    """The optimizer's state of every parameter as it would be without ZeRO, on the first replica; all replicas call it.

    Under stage 3 the weights are among it, frozen ones too.
    """
    flats, inner = _flats(engine, stage), _inner(engine).state
    fragments = _fragments(engine, stage, tensors, ranks)
    told = ranks.objects_to_first_replica(fragments)
    entries: dict[str, dict[str, Tensor | float]] = {}
    keys = {key for flat in flats for key in inner.get(flat, {})} if with_entries else set()
    alike = {key for flat in flats for key, value in inner.get(flat, {}).items() if _is_like(value, flat)} & keys
    slices: dict[str, list[Tensor]] = {key: [inner[flat][key] for flat in flats] for key in sorted(alike)}
    if stage == 3:
        slices[WEIGHT] = list(flats)
    for key, own in slices.items():
        parts = [own[each.group].narrow(0, each.offset, each.length) for each in fragments]
        vector = torch.cat(parts).detach().cpu() if parts else torch.empty(0)
        for theirs, sent in zip(told, ranks.to_first_replica(vector, _lengths(told)), strict=True):
            for fragment, piece in zip(theirs, sent.split([each.length for each in theirs]), strict=True):  # type: ignore[no-untyped-call]
                shape = _shape(tensors[fragment.name])
                whole = entries.setdefault(fragment.name, {}).setdefault(key, torch.empty(shape))
                assert isinstance(whole, Tensor)
                whole.view(-1)[fragment.start : fragment.start + fragment.length] = piece
    if ranks.coordinates.data == 0:
        groups = _groups(engine, stage)
        for name, tensor in tensors.items():
            for key in keys - alike if id(tensor) in groups else ():
                entries.setdefault(name, {})[key] = inner[flats[groups[id(tensor)]]][key]
    for name, tensor in tensors.items():
        if hasattr(tensor, "ds_id") and not tensor.requires_grad:
            with GatheredParameters([tensor]):
                entries[name] = {WEIGHT: copy_to_cpu(tensor)}
    return entries


def _is_like(value: Any, flat: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == flat.shape


def _lengths(told: list[list[Fragment]]) -> list[int]:
    return [sum(each.length for each in fragments) for fragments in told]


def _fragments(engine: Any, stage: int, tensors: Mapping[str, Tensor], ranks: ProcessGroups) -> list[Fragment]:
    """Where the parameters lie in this rank's slices."""
    found: list[Fragment] = []
    groups = _groups(engine, stage)
    name_of = {id(tensor): name for name, tensor in tensors.items()}
    if stage < 3:
        for key, group in groups.items():
            name = name_of[key]
            mapping = tensors[name]._hp_mapping  # type: ignore[attr-defined]
            if mapping is not None:  # none of it is in this rank's slice
                own, whole = mapping.hp_fragment_address, mapping.lp_fragment_address
                found.append(Fragment(name, group, own.start, whole.start, own.numel))
        return found
    offsets: dict[int, int] = {}
    for key, group in groups.items():
        parameter: Any = tensors[name_of[key]]
        size = parameter.partition_numel()
        start = min(ranks.coordinates.data * size, parameter.ds_numel)
        length = min(size, parameter.ds_numel - start)
        found.append(Fragment(name_of[key], group, offsets.get(group, 0), start, length))
        offsets[group] = offsets.get(group, 0) + size
    return found


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
        stage: of ZeRO, 1 to 3.
        tensors: parameters and buffers of this rank, by name.
        saved: checked against the whole model.
        part: this rank's slice of a whole tensor under model parallelism.
        ranks: all that take part.
    """
    flats, inner, alike = _flats(engine, stage), _inner(engine).state, saved.keys_alike()
    _prime(engine, stage, tensors, saved)
    with torch.no_grad():
        for name, tensor in tensors.items():
            if hasattr(tensor, "ds_id"):
                # Every replica writes the same, and on leaving each keeps its own part.
                with GatheredParameters([tensor], modifier_rank=0):
                    tensor.copy_(part(name, saved.weight(name)))
            else:
                tensor.copy_(part(name, saved.weight(name)))
        for fragment in _fragments(engine, stage, tensors, ranks):
            name, flat = fragment.name, flats[fragment.group]
            _fill(flat, fragment, part(name, saved.weight(name)))
            for key in alike.intersection(saved.keys(name)):
                _fill(inner[flat][key], fragment, part(name, torch.as_tensor(saved.entry(name, key))))


def _fill(flat: Tensor, fragment: Fragment, whole: Tensor) -> None:
    """Write a parameter's part, or one of a state that is like it, into a slice."""
    own = whole.reshape(-1).narrow(0, fragment.start, fragment.length)
    flat.narrow(0, fragment.offset, fragment.length).copy_(own)


def _prime(engine: Any, stage: int, tensors: Mapping[str, Tensor], saved: SavedState) -> None:
    """Give every flat slice the state entries that its optimizer would have after a step."""
    flats, groups, alike = _flats(engine, stage), _groups(engine, stage), saved.keys_alike()
    counts_on_device = any(each.get("fused") or each.get("capturable") for each in _inner(engine).param_groups)
    for name, tensor in tensors.items():
        if tensor.requires_grad:
            flat = flats[groups[id(tensor)]]
            own = _inner(engine).state[flat]
            for key in saved.keys(name):
                if key not in alike:
                    value = saved.entry(name, key)
                    own[key] = value.to(flat.device) if isinstance(value, Tensor) and counts_on_device else value
                elif key not in own:
                    own[key] = torch.zeros_like(flat)


def _inner(engine: Any) -> Optimizer:
    """The torch optimizer that steps over flat slices."""
    optimizer: Optimizer = engine.optimizer.optimizer
    return optimizer


def _flats(engine: Any, stage: int) -> list[Tensor]:
    """This rank's flat slices, one a group of parameters."""
    optimizer = engine.optimizer
    return list(optimizer.single_partition_of_fp32_groups if stage < 3 else optimizer.fp32_partitioned_groups_flat)


def _groups(engine: Any, stage: int) -> dict[int, int]:
    """The number of every trained parameter's group, by the parameter's id, in the order in which the slices hold them."""
    groups = engine.optimizer.bit16_groups if stage < 3 else engine.optimizer.fp16_groups
    return {id(each): number for number, group in enumerate(groups) for each in group}
