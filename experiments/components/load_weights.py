"""What a model starts with in place of chance, and which of its weights stay as they are at the start."""

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
    """Put weights into a model and hold some of them fixed, as a configuration asks.

    Args:
        model: whole; on the meta device it is only checked.
        config: with `init_from` and `freeze`.
        file: of safetensors, where weights were named; None: they are left out.

    Returns:
        Every reason why it does not fit; then the model is as it was.
    """
    problems = _misfits_of_freeze(model, config.get("freeze") or [])
    if get_initial_weights(config) is not None and file is not None:
        problems += _load(model, file, config["init_from"]["skip"], dry=bool(problems))
    if not problems:
        _freeze(model, config.get("freeze") or [])
    return problems


def has_prefix(name: str, parts: Iterable[str]) -> bool:
    """Whether a weight's name is one of these, or that of something inside one: ``head.3.bias`` of ``head``."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _misfits_of_freeze(model: nn.Module, parts: Collection[str]) -> list[str]:
    names = [name for name, _ in model.named_parameters()]
    known = list_prefixes(names)
    problems = [
        f"freeze={list(parts)}: no weight of {type(model).__name__} begins with {part!r}; {did_you_mean(part, known)}"
        for part in parts
        if not any(has_prefix(name, [part]) for name in names)
    ]
    if parts and not problems and all(has_prefix(name, parts) for name in names):
        problems.append(f"freeze={list(parts)} leaves {type(model).__name__} nothing to train; leave its last part out")
    return problems


def _freeze(model: nn.Module, parts: Collection[str]) -> None:
    """What stays fixed also computes as in evaluation: statistics of batches and dropout would change it."""
    for name, parameter in model.named_parameters():
        if has_prefix(name, parts):
            parameter.requires_grad_(False)
    for name, module in model.named_modules():
        if has_prefix(name, parts):
            module.register_forward_pre_hook(_evaluates)


def _evaluates(module: nn.Module, inputs: object) -> None:
    module.training = False


def _load(model: nn.Module, file: Path, skip: Collection[str], *, dry: bool) -> list[str]:
    try:
        with safe_open(file, "pt") as saved:
            shapes = {name: list(saved.get_slice(name).get_shape()) for name in saved.keys()}  # noqa: SIM118
            own, others = _own(model)
            problems = _misfits(shapes, own, others, skip)
            wanted = {name: tensor for name, tensor in own.items() if not has_prefix(name, skip)}
            if not problems and not dry and not any(tensor.is_meta for tensor in wanted.values()):
                with torch.no_grad():
                    for name, tensor in wanted.items():
                        tensor.copy_(saved.get_tensor(name))
    except (SafetensorError, OSError) as err:
        return [f"init_from.weights: {file} cannot be read ({err}); name a file of safetensors that is whole"]
    return problems


def _own(model: nn.Module) -> tuple[dict[str, Tensor], set[str]]:
    """The model's weights and statistics, each under the first of its names; and the other names."""
    own: dict[str, Tensor] = {}
    others, seen = set[str](), set[int]()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            others.add(name)
        else:
            seen.add(id(tensor))
            own[name] = tensor
    return own, others


def _misfits(
    shapes: Mapping[str, list[int]], own: Mapping[str, Tensor], others: Collection[str], skip: Collection[str]
) -> list[str]:
    known = [*own, *others, *shapes]
    problems = [
        f"init_from.skip={list(skip)}: no weight begins with {part!r}; {did_you_mean(part, list_prefixes(known))}"
        for part in skip
        if not any(has_prefix(name, [part]) for name in known)
    ]
    unlike = [
        f"init_from.weights: {name} is {shapes[name]} there and {list(tensor.shape)} in the model; {_skipping(name)}"
        for name, tensor in own.items()
        if name in shapes and shapes[name] != list(tensor.shape) and not has_prefix(name, skip)
    ]
    missing = [
        f"init_from.weights: there is no {name}, which the model has; {_skipping(name)}"
        for name in own
        if name not in shapes and not has_prefix(name, skip)
    ]
    strange = [
        f"init_from.weights: there is {name}, which the model has not; {_skipping(name)}"
        for name in shapes
        if name not in own and name not in others and not has_prefix(name, skip)
    ]
    for found in (unlike, missing, strange):
        problems += found[:MAX_LISTED]
        if len(found) > MAX_LISTED:
            problems.append(f"init_from.weights: and {len(found) - MAX_LISTED} more like the last")
    return problems


def _skipping(name: str) -> str:
    return f"add {name.rpartition('.')[0] or name!r} to init_from.skip"


def list_prefixes(names: Iterable[str]) -> set[str]:
    """What a part may be called: the beginnings of names, up to every dot."""
    return {
        ".".join(words[:count]) for name in names for words in [name.split(".")] for count in range(1, len(words) + 1)
    }
