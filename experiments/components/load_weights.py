"""Loads initial weights into a model, and freezes some of its weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from experiments.components.weight_names import Shapes, count_matches, list_prefixes, map_names, propose
from experiments.core.errors import MAX_LISTED, InputError, did_you_mean
from experiments.trial.initial_weights import get_initial_weights
from experiments.trial.weight_files import list_shards
from modules.model.base import NamesSavedWeights

MAX_IN_LINE = 6
"""Names that one line lists; they are long."""


@dataclass
class Loading:
    """What was loaded into a model, and what was not. With ``problems`` nothing was."""

    problems: list[str]
    loaded: dict[str, str] = field(default_factory=dict)
    """Name in the files by name in the model."""
    random: list[str] = field(default_factory=list)
    """Weights of the model that stay random."""
    unused: list[str] = field(default_factory=list)
    """Weights of the files that the model does not get."""
    warning: str = ""
    """What `strict: false` left out."""


def load_initial_weights(model: nn.Module, config: Mapping[str, Any], files: Mapping[str, Path]) -> Loading:
    """Load the weights of `init_from` into a model, and freeze the weights that `freeze` names.

    Args:
        model: on the meta device it is only checked.
        config: with `init_from` and `freeze`.
        files: by the part of the model, a safetensors file with its weights, or an index of several; "" is the whole model.
            Empty: load nothing.

    Returns:
        All problems; if there are any, the model is unchanged.
    """
    loading = Loading(_check_freeze(model, config.get("freeze") or []))
    if get_initial_weights(config) and files:
        is_dry_run = bool(loading.problems)
        found = _load(model, files, config["init_from"], is_dry_run=is_dry_run)
        loading = replace(found, problems=loading.problems + found.problems)
    if not loading.problems:
        _freeze(model, config.get("freeze") or [])
    return loading


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


def _load(model: nn.Module, files: Mapping[str, Path], init_from: Mapping[str, Any], *, is_dry_run: bool) -> Loading:
    skip = init_from["skip"]
    try:
        with ExitStack() as stack:
            where = dict[str, tuple[Any, str]]()  # the open file of a weight and its name there, by its whole name
            for part, file in files.items():
                for shard in list_shards(file):
                    saved = stack.enter_context(safe_open(shard, "pt"))
                    where |= {f"{part}.{name}" if part else name: (saved, name) for name in saved.keys()}  # noqa: SIM118  # it has no iterator
            raw = {name: list(saved.get_slice(inner).get_shape()) for name, (saved, inner) in where.items()}
            mapped, problems = map_names(raw, init_from, _name_of_library(model, raw))
            shapes = {name: raw[old_name] for name, old_name in mapped.items()}
            own = _own(model)
            loading = _match(shapes, own, mapped, skip)
            problems += _check(raw, shapes, own, loading, init_from)
            if problems:
                return Loading(problems)
            if not is_dry_run and not any(own[name][0].is_meta for name in loading.loaded):
                with torch.no_grad():
                    for name, old_name in loading.loaded.items():
                        saved, inner = where[old_name]
                        own[name][0].copy_(saved.get_tensor(inner))
    except (SafetensorError, OSError) as err:
        named = " or ".join(map(str, files.values()))
        return Loading([f"init_from.weights: {named} cannot be read ({err}); name a complete safetensors file"])
    except InputError as err:
        return Loading([f"init_from.weights: {problem}" for problem in err.problems])
    if not init_from.get("strict", True):
        loading.warning = _describe_gaps(loading, skip)
    return loading


def _name_of_library(model: nn.Module, names: Collection[str]) -> dict[str, str] | None:
    """The model's names of weights that another library saved; None: the names are its own."""
    own = model.state_dict()
    known = model.name_saved_weights(names) if isinstance(model, NamesSavedWeights) else {}
    is_better = sum(name in own for name in known.values()) > sum(name in own for name in names)
    return known if is_better else None


def _describe_gaps(loading: Loading, skip: Collection[str]) -> str:
    """The names that did not match, besides those that the configuration skips."""
    groups = {"of the model stay random": loading.random, "of the files are unused": loading.unused}
    gaps = {text: [name for name in names if not has_prefix(name, skip)] for text, names in groups.items()}
    texts = [f"{len(names)} weights {text}: {_list(names)}" for text, names in gaps.items() if names]
    return f"init_from.strict=false: {'; '.join(texts)}" if texts else ""


def _own(model: nn.Module) -> dict[str, tuple[Tensor, list[str]]]:
    """Weights and buffers of the model by their first name, each with all names of it; shared ones have several."""
    own, first = dict[str, tuple[Tensor, list[str]]](), dict[int, str]()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            own.setdefault(first.setdefault(id(tensor), name), (tensor, []))[1].append(name)
    return own


def _match(
    shapes: Shapes, own: Mapping[str, tuple[Tensor, list[str]]], mapped: Mapping[str, str], skip: Collection[str]
) -> Loading:
    """What would be loaded, by names alone; a shared weight has several."""
    loaded, random, used = dict[str, str](), list[str](), set[str]()
    for name, (_, names) in own.items():
        found = [other for other in names if other in shapes and not has_prefix(other, skip)]
        used |= {*found}
        if found and not has_prefix(name, skip):
            loaded[name] = mapped[found[0]]
        else:
            random.append(name)
    return Loading([], loaded, random, [name for name in shapes if name not in used])


def _check(
    raw: Shapes,
    shapes: Shapes,
    own: Mapping[str, tuple[Tensor, list[str]]],
    loading: Loading,
    init_from: Mapping[str, Any],
) -> list[str]:
    """All problems of the names and shapes."""
    skip, strict = init_from["skip"], init_from.get("strict", True)
    every_name = {name: list(tensor.shape) for tensor, names in own.values() for name in names}
    known = [*every_name, *shapes]
    problems = [
        f"init_from.skip={list(skip)}: no weight begins with {part!r}; {did_you_mean(part, list_prefixes(known))}"
        for part in skip
        if not any(has_prefix(name, [part]) for name in known)
    ]
    missing = [name for name in loading.random if not has_prefix(name, skip)]
    unexpected = [name for name in loading.unused if not has_prefix(name, skip)]
    mismatched = {
        name: f"{name} is {shapes[name]} in the file and {shape} in the model"
        for name, shape in every_name.items()
        if shapes.get(name, shape) != shape and not has_prefix(name, skip)
    }
    is_wrong = bool(mismatched or not loading.loaded or (strict and (missing or unexpected)))
    advice, count = propose(raw, every_name) if is_wrong else ("", 0)
    if count > count_matches(shapes, every_name):
        problems.append(
            f"init_from.weights: {count_matches(shapes, every_name)} of the {len(shapes)} weights in the file match the "
            f"model's {len(own)} in name and shape; {advice}, then {count} match"
        )
        groups = {
            "missing in the file": missing,
            "unexpected in the file": unexpected,
            "of another shape": [*mismatched.values()],
        }
        return problems + [f"init_from.weights: {kind}: {_list(names)}" for kind, names in groups.items() if names]
    if not loading.loaded:
        problems.append(
            f"init_from.weights: none of the {len(shapes)} weights in the file would be loaded into the model's {len(own)}; "
            "name other weights, or set init_from.prefix or init_from.rename"
        )
    lines = [[f"init_from.weights: {text}; {_hint_to_skip(name)}" for name, text in mismatched.items()]]
    if strict:
        lines += [
            [
                f"init_from.weights: the file lacks {name}, which the model has; {_hint_to_skip(name)}"
                for name in missing
            ],
            [
                f"init_from.weights: the file has {name}, which the model lacks; {_hint_to_skip(name)}"
                for name in unexpected
            ],
        ]
    for group in lines:
        problems += group[:MAX_LISTED]
        if len(group) > MAX_LISTED:
            problems.append(f"init_from.weights: and {len(group) - MAX_LISTED} more like the last")
    return problems


def _list(names: list[str]) -> str:
    more = f" and {len(names) - MAX_IN_LINE} more" if len(names) > MAX_IN_LINE else ""
    return f"{', '.join(names[:MAX_IN_LINE])}{more}"


def _hint_to_skip(name: str) -> str:
    return f"add {name.rpartition('.')[0] or name!r} to init_from.skip"
