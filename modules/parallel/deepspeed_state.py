"""The state of a model that ZeRO has partitioned, gathered by the parameters' names and put back.

Goes by DeepSpeed's own access to partitioned tensors (deepspeed.utils.safe_get_full_*, safe_set_full_*); what it lacks
is the state of an optimizer that has not stepped yet, which `_prime` makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from deepspeed.runtime.zero.partition_parameters import GatheredParameters
from deepspeed.utils import safe_get_full_optimizer_state, safe_set_full_fp32_param, safe_set_full_optimizer_state
from torch import Tensor
from torch.optim import Optimizer

from modules.parallel.ranks import Ranks
from modules.parallel.shards import Shards
from modules.parallel.state import Saved, State, copied


def collect(
    engine: Any,
    stage: int,
    tensors: Mapping[str, Tensor],
    optimizer_name: str,
    shards: Shards | None,
    ranks: Ranks,
    with_entries: bool = True,
) -> State | None:
    """The state of the whole model on rank 0, a tensor at a time; all ranks call it.

    Args:
        engine: DeepSpeed's.
        stage: of ZeRO.
        tensors: parameters and buffers of this rank, by name.
        optimizer_name: of its class.
        shards: how layers are split; None where they are whole.
        ranks: all that take part.
        with_entries: the optimizer's state too.
    """
    weights: dict[str, Tensor] = {}
    entries: dict[str, Tensor] = {}  # under "<parameter>.<entry>"
    numbers: dict[str, dict[str, float]] = {}
    keeps = ranks.place.data == 0 and ranks.place.model == 0
    for name, tensor in tensors.items():
        found = {"": _whole_weight(tensor)} | (_whole_entries(engine, stage, tensor) if with_entries else {})
        for key, value in found.items():
            if not isinstance(value, Tensor):
                numbers.setdefault(name, {})[key] = value
                continue
            if shards is not None and value.shape == tensor_shape(tensor) and ranks.place.data == 0:
                value = shards.whole(name, value)
            if keeps:
                (entries if key else weights)[f"{name}.{key}" if key else name] = copied(value)
    if not keeps:
        return None
    weights, entries = ranks.to_first_stage(weights), ranks.to_first_stage(entries)
    if ranks.number > 0:
        return None
    state = State(weights, optimizer_name, {name: dict(each) for name, each in numbers.items()})
    for full, value in entries.items():
        name, _, key = full.rpartition(".")
        state.entries.setdefault(name, {})[key] = value
    return state


def tensor_shape(tensor: Tensor) -> torch.Size:
    """Shape of a parameter, also where ZeRO 3 has taken its content away."""
    return torch.Size(getattr(tensor, "ds_shape", tensor.shape))


def _whole_weight(tensor: Tensor) -> Tensor:
    """A parameter, or a buffer, as it would be without ZeRO; all replicas call it."""
    if not hasattr(tensor, "ds_id"):
        return tensor.detach()
    with GatheredParameters([tensor]):
        return tensor.detach().clone()


def _whole_entries(engine: Any, stage: int, tensor: Tensor) -> dict[str, Tensor | float]:
    """The optimizer's state of a parameter, as it would be without ZeRO; all replicas call it."""
    if not tensor.requires_grad:
        return {}
    if stage == 0:
        return dict(engine.optimizer.state.get(tensor, {}))
    flat = _flats(engine, stage)[_group_of(engine, stage, tensor)]
    entries: dict[str, Tensor | float] = {}
    for key, value in _inner(engine).state.get(flat, {}).items():
        if isinstance(value, Tensor) and value.shape == flat.shape:
            whole = safe_get_full_optimizer_state(tensor, key)
            assert whole is not None
            entries[key] = whole
        else:
            entries[key] = value
    return entries


def restore(
    engine: Any, stage: int, tensors: Mapping[str, Tensor], saved: Saved, part: Callable[[str, Tensor], Tensor]
) -> None:
    """Bring a saved state into an engine.

    Args:
        engine: DeepSpeed's, prepared.
        stage: of ZeRO, 1 to 3.
        tensors: parameters and buffers of this rank, by name.
        saved: checked against the whole model.
        part: this rank's slice of a whole tensor under model parallelism.
    """
    _prime(engine, stage, tensors, saved)
    for name, tensor in tensors.items():
        weight = part(name, saved.weight(name))
        with torch.no_grad():
            if hasattr(tensor, "ds_id"):
                # Every replica writes the same, and on leaving each keeps its own part.
                with GatheredParameters([tensor], modifier_rank=0):
                    tensor.copy_(weight)
            else:
                tensor.copy_(weight)
        if not tensor.requires_grad:
            continue
        device = tensor.device
        safe_set_full_fp32_param(tensor, weight.to(device))
        for key, value in saved.entries(name).items():
            if isinstance(value, Tensor) and value.dim():
                safe_set_full_optimizer_state(tensor, part(name, value).to(device), key)


def _prime(engine: Any, stage: int, tensors: Mapping[str, Tensor], saved: Saved) -> None:
    """Give every flat slice the state entries that its optimizer would have after a step."""
    flats = _flats(engine, stage)
    state = _inner(engine).state
    for name, tensor in tensors.items():
        entries = saved.entries(name) if tensor.requires_grad else {}
        if not entries:
            continue
        flat = flats[_group_of(engine, stage, tensor)]
        own = state[flat]
        for key, value in entries.items():
            if isinstance(value, Tensor) and value.dim():
                if key not in own:
                    own[key] = torch.zeros_like(flat)
            else:
                own[key] = copied(value) if isinstance(value, Tensor) else value
    if stage < 3:
        engine.optimizer._hp_optimizer_states_linked = False
        if any(state.get(flat) for flat in flats):
            engine.optimizer._lazy_init_hp_params_optimizer_state()


def _inner(engine: Any) -> Optimizer:
    """The torch optimizer that steps over flat slices."""
    optimizer: Optimizer = engine.optimizer.optimizer
    return optimizer


def _flats(engine: Any, stage: int) -> list[Tensor]:
    """This rank's flat slices, one a group of parameters."""
    optimizer = engine.optimizer
    return list(optimizer.single_partition_of_fp32_groups if stage < 3 else optimizer.fp32_partitioned_groups_flat)


def _group_of(engine: Any, stage: int, tensor: Tensor) -> int:
    groups = engine.optimizer.bit16_groups if stage < 3 else engine.optimizer.fp16_groups
    return next(number for number, group in enumerate(groups) if any(each is tensor for each in group))
