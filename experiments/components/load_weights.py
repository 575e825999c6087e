"""Loads initial weights into a model, and freezes some of its weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from experiments.core.errors import MAX_LISTED, did_you_mean
from experiments.trial.initial_weights import get_initial_weights


def load_initial_weights(model: nn.Module, config: Mapping[str, Any], file: Path | None) -> list[str]:
    """Load the weights of `init_from` into a model, and freeze the weights that `freeze` names.

    Args:
        model: on the meta device it is only checked.
        config: with `init_from` and `freeze`.
        file: safetensors file; None: load nothing.

    Returns:
        All problems; if there are any, the model is unchanged.
    """
    problems = _check_freeze(model, config.get("freeze") or [])
    if get_initial_weights(config) is not None and file is not None:
        problems += _load(model, file, config["init_from"]["skip"], is_dry_run=bool(problems))
    if not problems:
        _freeze(model, config.get("freeze") or [])
    return problems


def has_prefix(name: str, parts: Iterable[str]) -> bool:
    """Whether a weight has one of these names, or belongs to one: ``head.3.bias`` belongs to ``head``."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _check_freeze(model: nn.Module, parts: Collection[str]) -> list[str]:
    names = [name for name, _ in model.named_parameters()]
    known = list_prefixes(names)
    problems = [
        f"freeze={list(parts)}: no weight of {type(model).__name__} begins with {part!r}; {did_you_mean(part, known)}"
        for part in parts
        if not any(has_prefix(name, [part]) for name in names)
    ]
    if parts and not problems and all(has_prefix(name, parts) for name in names):
        problems.append(
            f"freeze={list(parts)} leaves nothing to train in {type(model).__name__}; remove its last entry"
        )
    return problems


def _freeze(model: nn.Module, parts: Collection[str]) -> None:
    """Freeze weights, and keep their modules in evaluation mode: batch statistics and dropout would change them."""
    for name, parameter in model.named_parameters():
        if has_prefix(name, parts):
            parameter.requires_grad_(False)
    for name, module in model.named_modules():
        if has_prefix(name, parts):
            module.register_forward_pre_hook(_set_eval_mode)


def _set_eval_mode(module: nn.Module, inputs: object) -> None:
    module.training = False


def _load(model: nn.Module, file: Path, skip: Collection[str], *, is_dry_run: bool) -> list[str]:
    try:
        with safe_open(file, "pt") as saved:
            shapes = {name: list(saved.get_slice(name).get_shape()) for name in saved.keys()}  # noqa: SIM118
            own, others = _own(model)
            problems = _check_weights(shapes, own, others, skip)
            to_load = {name: tensor for name, tensor in own.items() if not has_prefix(name, skip)}
            if not problems and not is_dry_run and not any(tensor.is_meta for tensor in to_load.values()):
                with torch.no_grad():
                    for name, tensor in to_load.items():
                        tensor.copy_(saved.get_tensor(name))
    except (SafetensorError, OSError) as err:
        return [f"init_from.weights: {file} cannot be read ({err}); name a complete safetensors file"]
    return problems


def _own(model: nn.Module) -> tuple[dict[str, Tensor], set[str]]:
    """Weights and buffers of the model by their first name, and the other names of shared ones."""
    own: dict[str, Tensor] = {}
    others, seen = set[str](), set[int]()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            others.add(name)
        else:
            seen.add(id(tensor))
            own[name] = tensor
    return own, others


def _check_weights(
    shapes: Mapping[str, list[int]], own: Mapping[str, Tensor], others: Collection[str], skip: Collection[str]
) -> list[str]:
    known = [*own, *others, *shapes]
    problems = [
        f"init_from.skip={list(skip)}: no weight begins with {part!r}; {did_you_mean(part, list_prefixes(known))}"
        for part in skip
        if not any(has_prefix(name, [part]) for name in known)
    ]
    mismatched = [
        f"init_from.weights: {name} is {shapes[name]} in the file and {list(tensor.shape)} in the model; {_hint_to_skip(name)}"
        for name, tensor in own.items()
        if name in shapes and shapes[name] != list(tensor.shape) and not has_prefix(name, skip)
    ]
    missing = [
        f"init_from.weights: the file lacks {name}, which the model has; {_hint_to_skip(name)}"
        for name in own
        if name not in shapes and not has_prefix(name, skip)
    ]
    unexpected = [
        f"init_from.weights: the file has {name}, which the model lacks; {_hint_to_skip(name)}"
        for name in shapes
        if name not in own and name not in others and not has_prefix(name, skip)
    ]
    for group in (mismatched, missing, unexpected):
        problems += group[:MAX_LISTED]
        if len(group) > MAX_LISTED:
            problems.append(f"init_from.weights: and {len(group) - MAX_LISTED} more like the last")
    return problems


def _hint_to_skip(name: str) -> str:
    return f"add {name.rpartition('.')[0] or name!r} to init_from.skip"


def list_prefixes(names: Iterable[str]) -> set[str]:
    """All prefixes of dotted names: ``a``, ``a.b`` and ``a.b.c`` of ``a.b.c``."""
    return {
        ".".join(words[:count]) for name in names for words in [name.split(".")] for count in range(1, len(words) + 1)
    }
