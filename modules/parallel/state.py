"""Training state on disk, without pickle: weights, optimizer and random states as safetensors and JSON."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

MODEL = "model.safetensors"
OPTIMIZER = "optimizer"  # .safetensors for tensors, .json for parameter groups and scalars
RANDOM = "random"


class StateError(ValueError):
    """A saved state is damaged or belongs to other parts.

    Attributes:
        path: the file in question.
        problems: everything that does not fit, one line each.
    """

    def __init__(self, path: Path, problems: list[str], way_out: str) -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"the state in {path} cannot be restored, {count}:{lines}\n{way_out}")
        self.path, self.problems = path, problems


SAME_PARTS = "resume with the configuration that wrote it, or start a new run"
OLDER = "resume from an older checkpoint, or start a new run"


def save_model(model: nn.Module, folder: Path) -> None:
    """Write parameters and buffers to `model.safetensors`; those that are tied are written once."""
    _write_tensors(folder / MODEL, _untied(model))


def load_model(model: nn.Module, folder: Path) -> None:
    """Copy saved weights into a model.

    Raises:
        StateError: names, shapes or dtypes are not those of the model.
    """
    path = folder / MODEL
    saved, own = _read_tensors(path), _untied(model)
    problems = [f"{name}: the model has it, the file does not" for name in own.keys() - saved.keys()]
    problems += [f"{name}: the file has it, the model does not" for name in saved.keys() - own.keys()]
    for name in own.keys() & saved.keys():
        if _kind(saved[name]) != _kind(own[name]):
            problems.append(f"{name}: saved as {_kind(saved[name])}, the model has {_kind(own[name])}")
    if problems:
        raise StateError(path, sorted(problems), SAME_PARTS)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])


def save_optimizer(optimizer: Optimizer, folder: Path) -> None:
    """Write the state of any `torch.optim` optimizer whose state is tensors and plain scalars."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                scalars.setdefault(str(index), {})[key] = value
    _write_tensors(folder / f"{OPTIMIZER}.safetensors", tensors)
    described = {"optimizer": type(optimizer).__name__, "param_groups": state["param_groups"], "scalars": scalars}
    _write_json(folder / f"{OPTIMIZER}.json", described)


def load_optimizer(optimizer: Optimizer, folder: Path) -> None:
    """Restore an optimizer that was built over the same parameters.

    Raises:
        StateError: it is another optimizer, or its state belongs to other parameters.
    """
    path = folder / f"{OPTIMIZER}.json"
    saved, own = _read_json(path), optimizer.state_dict()
    name, groups = type(optimizer).__name__, saved.get("param_groups", [])
    if saved.get("optimizer") != name:
        raise StateError(path, [f"optimizer: saved from {saved.get('optimizer')}, this run has {name}"], SAME_PARTS)
    if [group["params"] for group in groups] != [group["params"] for group in own["param_groups"]]:
        counts = [[len(group["params"]) for group in each] for each in (groups, own["param_groups"])]
        raise StateError(path, [f"parameters per group: saved {counts[0]}, this run has {counts[1]}"], SAME_PARTS)
    state = _optimizer_state(optimizer, folder / f"{OPTIMIZER}.safetensors", saved["scalars"])
    for group, ours in zip(groups, own["param_groups"], strict=True):
        for key, value in group.items():  # JSON knows no tuples: betas
            group[key] = tuple(value) if isinstance(ours.get(key), tuple) else value
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def save_random(folder: Path) -> None:
    """Write the states of Python's, numpy's and torch's generators, those of every CUDA device included."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    tensors = {
        "python": torch.tensor(words, dtype=torch.int64),
        "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
        "torch_cpu": torch.get_rng_state(),
    }
    if _uses_cuda():
        tensors |= {f"torch_cuda_{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    _write_tensors(folder / f"{RANDOM}.safetensors", tensors)
    scalars = {"python": [version, gauss], "numpy": [kind, position, has_gauss, cached]}
    _write_json(folder / f"{RANDOM}.json", scalars)


def load_random(folder: Path) -> None:
    """Restore every generator that `save_random` found and this machine has too."""
    path = folder / f"{RANDOM}.safetensors"
    tensors, scalars = _read_tensors(path), _read_json(folder / f"{RANDOM}.json")
    missing = [f"{name}: the file does not have it" for name in ("python", "numpy", "torch_cpu") if name not in tensors]
    if missing:
        raise StateError(path, missing, OLDER)
    version, gauss = scalars["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    kind, position, has_gauss, cached = scalars["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["torch_cpu"])
    for device in range(torch.cuda.device_count() if _uses_cuda() else 0):
        if f"torch_cuda_{device}" in tensors:
            torch.cuda.set_rng_state(tensors[f"torch_cuda_{device}"], device)


def _uses_cuda() -> bool:
    """Whether this process has touched CUDA; asking for a state would start it on every device."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]  # torch 2.13 leaves it without types


def _untied(model: nn.Module) -> dict[str, Tensor]:
    """Live parameters and buffers, each under the first of its names."""
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor
    return tensors


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _optimizer_state(optimizer: Optimizer, path: Path, scalars: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Read per-parameter state and hold it against the parameters' shapes."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {int(index): dict(entries) for index, entries in scalars.items()}
    problems = []
    for name, tensor in _read_tensors(path).items():
        index, key = name.split(".", 1)
        if int(index) >= len(parameters):
            problems.append(f"{name}: there are only {len(parameters)} parameters")
        elif not _fits(tensor, parameters[int(index)]):
            problems.append(
                f"{name}: saved as {list(tensor.shape)}, its parameter is {list(parameters[int(index)].shape)}"
            )
        state.setdefault(int(index), {})[key] = tensor
    if problems:
        raise StateError(path, problems, SAME_PARTS)
    return state


def _fits(tensor: Tensor, parameter: Tensor) -> bool:
    """Whether a state is as large as its parameter, or a scalar or a factor (Adafactor) of it."""
    sizes = zip(tensor.shape, parameter.shape, strict=False)
    return tensor.dim() == 0 or (tensor.dim() == parameter.dim() and all(size in (1, own) for size, own in sizes))


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as err:
        # The library knows the disk is full and hides it in a text; a caller needs the errno (safetensors 0.8.0).
        number = re.search(r"os error (\d+)", str(err))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from err
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, FileNotFoundError) as err:
        raise StateError(path, [str(err)], OLDER) from err


def _write_json(path: Path, value: object) -> None:
    try:
        text = json.dumps(value)
    except TypeError as err:
        raise ValueError(f"{path.name} holds only numbers, text and lists, but {err}; use plain floats") from err
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except (ValueError, FileNotFoundError) as err:
        raise StateError(path, [str(err)], OLDER) from err
    return value
