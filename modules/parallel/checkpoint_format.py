"""Training state on disk: weights and the optimizer's state by the parameters' names, whole, whatever the topology.

Safetensors and JSON, without pickle. As nothing in it knows of ranks, any engine restores what any other saved.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"  # under "<parameter>.<entry>"
REST = "optimizer.json"  # its class, plain numbers of its state, and what else an engine needs


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


@dataclass
class TrainingState:
    """Everything that the next step depends on, but for what follows from seed and step."""

    weights: dict[str, Tensor]
    """Parameters and buffers, each whole and under the first of its names."""
    optimizer: str
    """Name of its class."""
    entries: dict[str, dict[str, Tensor | float]]
    """The optimizer's state of every parameter, by parameter and entry: ``exp_avg``, ``step`` ..."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Plain JSON of the engine's own: the scale of a loss."""

    def write(self, folder: Path) -> None:
        """Write it into an empty folder.

        Raises:
            OSError: the disk is full.
            ValueError: the optimizer keeps something that is neither tensor nor number.
        """
        _write_tensors(folder / MODEL, self.weights)
        tensors: dict[str, Tensor] = {}
        numbers: dict[str, dict[str, float]] = {}
        for name, entries in self.entries.items():
            for key, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"{name}.{key}"] = value
                else:
                    numbers.setdefault(name, {})[key] = value
        _write_tensors(folder / OPTIMIZER, tensors)
        _write_json(folder / REST, {"optimizer": self.optimizer, "numbers": numbers, "extra": self.extra})


class SavedState:
    """A state on disk, read a tensor at a time: no rank needs memory for more than its own part."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            StateError: a file is missing or damaged.
        """
        self.folder = folder
        rest = _read_json(folder / REST)
        self.optimizer, self.extra = str(rest.get("optimizer")), rest.get("extra", {})
        self._numbers: dict[str, dict[str, float]] = rest.get("numbers", {})
        self._open = ExitStack()
        self._weights = self._opened(folder / MODEL)
        self._states = self._opened(folder / OPTIMIZER)
        self.weight_names = set(self._weights.keys())
        self._keys: dict[str, list[str]] = {}
        for full in self._states.keys():  # noqa: SIM118  # a file of safetensors is no mapping
            name, _, key = full.rpartition(".")
            self._keys.setdefault(name, []).append(key)

    def _opened(self, path: Path) -> Any:
        try:
            return self._open.enter_context(safe_open(path, "pt"))
        except (SafetensorError, OSError) as err:
            self._open.close()
            raise StateError(path, [str(err)], OLDER) from err

    def __enter__(self) -> SavedState:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def weight(self, name: str) -> Tensor:
        tensor: Tensor = self._weights.get_tensor(name)
        return tensor

    def keys(self, name: str) -> list[str]:
        """What the optimizer keeps of one parameter; nothing before its first step."""
        return [*self._keys.get(name, []), *self._numbers.get(name, {})]

    def entry(self, name: str, key: str) -> Tensor | float:
        numbers = self._numbers.get(name, {})
        if key in numbers:
            return numbers[key]
        tensor: Tensor = self._states.get_tensor(f"{name}.{key}")
        return tensor

    def entries(self, name: str) -> dict[str, Tensor | float]:
        """The optimizer's state of one parameter."""
        return {key: self.entry(name, key) for key in self.keys(name)}

    def keys_alike(self) -> set[str]:
        """Keys of which every parameter has a tensor of its own shape, such as ``exp_avg``, and not one number."""
        names = ((f"{name}.{key}", key) for name, keys in self._keys.items() for key in keys)
        return {key for full, key in names if self._states.get_slice(full).get_shape()}

    def check(self, kinds: Mapping[str, str], optimizer: str) -> None:
        """
        Args:
            kinds: what the whole model has, from `describe_tensors`.
            optimizer: name of this run's class.

        Raises:
            StateError: names, shapes or dtypes are not those of the model, or it is another optimizer.
        """
        own, names = set(kinds), self.weight_names
        problems = [f"{name}: the model has it, the file does not" for name in own - names]
        problems += [f"{name}: the file has it, the model does not" for name in names - own]
        for name in own & names:
            saved = _kind_of_slice(self._weights.get_slice(name))
            if saved != kinds[name]:
                problems.append(f"{name}: saved as {saved}, the model has {kinds[name]}")
        if problems:
            raise StateError(self.folder / MODEL, sorted(problems), SAME_PARTS)
        if self.optimizer != optimizer:
            problem = f"optimizer: saved from {self.optimizer}, this run has {optimizer}"
            raise StateError(self.folder / REST, [problem], SAME_PARTS)
        strangers = sorted(name for name in self._keys if name not in own)
        if strangers:
            problems = [f"{name}: the model has no such parameter" for name in strangers]
            raise StateError(self.folder / OPTIMIZER, problems, SAME_PARTS)


def name_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Live parameters and buffers that belong to a state, each under the first of its names."""
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor
    return tensors


def find_ties(model: nn.Module) -> dict[str, str]:
    """Every name in the model's own state, with the first name of the tensor that it stands for."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in model.state_dict(keep_vars=True).items()}


def expand_ties(weights: Mapping[str, Tensor], ties: Mapping[str, str]) -> dict[str, Tensor]:
    """Whole weights as a model's `load_state_dict` wants them: of those that are tied, a copy under every name."""
    return {name: weights[own] if name == own else weights[own].clone() for name, own in ties.items()}


def describe_tensors(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Dtype and shape of each, in words."""
    return {
        name: f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}" for name, tensor in tensors.items()
    }


def copy_to_cpu(tensor: Tensor) -> Tensor:
    """A copy on the CPU that training does not touch."""
    copy = tensor.detach().to("cpu", copy=True)
    return copy.contiguous()


def collect(tensors: Mapping[str, Tensor], optimizer: Optimizer) -> TrainingState:
    """Copy the state of a model that this process holds whole."""
    entries: dict[str, dict[str, Tensor | float]] = {}
    for name, tensor in tensors.items():
        own = optimizer.state.get(tensor)
        if own:
            entries[name] = {
                key: copy_to_cpu(value) if isinstance(value, Tensor) else value for key, value in own.items()
            }
    weights = {name: copy_to_cpu(tensor) for name, tensor in tensors.items()}
    return TrainingState(weights, type(optimizer).__name__, entries)


def restore(
    saved: SavedState,
    tensors: Mapping[str, Tensor],
    optimizer: Optimizer,
    cut: Callable[[str, Tensor], Tensor] | None = None,
) -> None:
    """Bring a saved state into live tensors and an optimizer over them.

    Args:
        saved: checked against the whole model.
        tensors: by name, those that this rank holds.
        optimizer: over some or all of them.
        cut: gives this rank's part of a whole tensor; None where it holds all.
    """
    part = cut or (lambda name, whole: whole)
    name_of = {id(tensor): name for name, tensor in tensors.items()}
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(part(name, saved.weight(name)))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for index, parameter in enumerate(parameters):
        name = name_of[id(parameter)]
        entries = saved.entries(name)
        if entries:
            state[index] = {
                key: part(name, value)
                if isinstance(value, Tensor) and value.shape == saved.weight(name).shape
                else value
                for key, value in entries.items()
            }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _kind_of_slice(part: Any) -> str:
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool", "U8": "uint8"}
    names |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
    return f"{names.get(part.get_dtype(), part.get_dtype())} {list(part.get_shape())}"


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    try:
        save_file(dict(tensors), path)
    except SafetensorError as err:
        # The library knows the disk is full and hides it in a text; a caller needs the errno (safetensors 0.8.0).
        number = re.search(r"os error (\d+)", str(err))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from err


def _write_json(path: Path, value: object) -> None:
    try:
        text = json.dumps(value)
    except TypeError as err:
        raise ValueError(f"{path.name} holds only numbers, text and lists, but {err}; use plain floats") from err
    path.write_text(text)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except (ValueError, FileNotFoundError) as err:
        raise StateError(path, [str(err)], OLDER) from err
    return value
