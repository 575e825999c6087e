"""Training state on disk: whole weights and optimizer state by parameter name, the same for every topology.

The files are safetensors and JSON, without pickle. They do not depend on ranks, so any engine can restore the state of any other.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
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
DELIVERED = "delivered.safetensors"  # weights that a run delivers in place of the trained ones, such as their average
OPTIMIZER = "optimizer.safetensors"  # keys are "<parameter>.<entry>"
REST = "optimizer.json"  # its class, the numbers in its state, and values of the engine
LEFT_OUT = "names_left_out"
"""Attribute of a model: names of its weights that no checkpoint holds, see `leave_out`."""
MAX_LIST = 1 << 16
"""Most elements of all lists in the state of one parameter: a small file must not fill the memory."""


class StateError(ValueError):
    """A saved state is damaged, or belongs to another model or optimizer.

    Attributes:
        path: the file.
        problems: one line each.
    """

    def __init__(self, path: Path, problems: list[str], hint: str) -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"the state in {path} cannot be restored, {count}:{lines}\n{hint}")
        self.path, self.problems = path, problems


_TENSOR = "number of the tensor"
SAME_CONFIG_HINT = "resume with the configuration that wrote it, or start a new run"
OLDER_HINT = "resume from an older checkpoint, or start a new run"


@dataclass
class TrainingState:
    """Everything that the next step depends on, except what follows from the seed and the step."""

    weights: dict[str, Tensor]
    """Whole parameters and buffers; a tied tensor has its first name only."""
    optimizer: str
    """Names of the optimizers' classes, from `name_optimizers`."""
    entries: dict[str, dict[str, Tensor | float]]
    """Optimizer state by parameter name and entry, such as ``exp_avg`` or ``step``."""
    extra: dict[str, Any] = field(default_factory=dict)
    """JSON values of the engine, such as the loss scale."""

    def write(self, folder: Path) -> None:
        """Write the state into an empty folder.

        Raises:
            OSError: the disk is full.
            ValueError: the optimizer state has a value that is neither a tensor nor a number.
        """
        write_tensors(folder / MODEL, self.weights)
        tensors: dict[str, Tensor] = {}
        numbers: dict[str, dict[str, float]] = {}
        for name, entries in self.entries.items():
            for key, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"{name}.{key}"] = value
                else:
                    numbers.setdefault(name, {})[key] = value
        write_tensors(folder / OPTIMIZER, tensors)
        _write_json(folder / REST, {"optimizer": self.optimizer, "numbers": numbers, "extra": self.extra})


class SavedState:
    """A state on disk, read tensor by tensor: a rank needs memory only for its own part."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            StateError: a file is missing or damaged.
        """
        self.folder = folder
        rest = _read_json(folder / REST)
        self.optimizer, self.extra = str(rest.get("optimizer")), rest.get("extra", {})
        self._numbers: dict[str, dict[str, float]] = rest.get("numbers", {})
        self._stack = ExitStack()
        self._weights = self._open_file(folder / MODEL)
        self._states = self._open_file(folder / OPTIMIZER)
        self.weight_names = set(self._weights.keys())
        self._keys: dict[str, list[str]] = {}
        for entry in self._states.keys():  # noqa: SIM118  # a safetensors file is not a mapping
            name, _, key = entry.rpartition(".")
            self._keys.setdefault(name, []).append(key)

    def _open_file(self, path: Path) -> Any:
        try:
            return self._stack.enter_context(safe_open(path, "pt"))
        except (SafetensorError, OSError) as err:
            self._stack.close()
            raise StateError(path, [str(err)], OLDER_HINT) from err

    def __enter__(self) -> SavedState:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def weight(self, name: str) -> Tensor:
        tensor: Tensor = self._weights.get_tensor(name)
        return tensor

    def keys(self, name: str) -> list[str]:
        """Entries of the optimizer state of one parameter; empty before the first step."""
        return [*self._keys.get(name, []), *self._numbers.get(name, {})]

    def entry(self, name: str, key: str) -> Tensor | float:
        numbers = self._numbers.get(name, {})
        if key in numbers:
            return numbers[key]
        tensor: Tensor = self._states.get_tensor(f"{name}.{key}")
        return tensor

    def entries(self, name: str) -> dict[str, Tensor | float]:
        """Optimizer state of one parameter."""
        return {key: self.entry(name, key) for key in self.keys(name)}

    def parameter_shaped_keys(self) -> set[str]:
        """Keys whose values have the shape of their parameter, such as ``exp_avg``, and are not single numbers."""
        entries = ((f"{name}.{key}", key) for name, keys in self._keys.items() for key in keys)
        return {key for entry, key in entries if self._states.get_slice(entry).get_shape()}

    def check(self, expected: Mapping[str, str], optimizer: str) -> None:
        """Check that the state fits a model and an optimizer.

        Args:
            expected: dtype and shape of each tensor of the whole model, from `describe_tensors`.
            optimizer: name of the optimizer class of this run.

        Raises:
            StateError: a name, a shape, a dtype or the optimizer class differs.
        """
        own, names = set(expected), self.weight_names
        problems = [f"{name}: it is in the model, but not in the file" for name in own - names]
        problems += [f"{name}: it is in the file, but not in the model" for name in names - own]
        for name in own & names:
            saved = _describe_slice(self._weights.get_slice(name))
            if saved != expected[name]:
                problems.append(f"{name}: saved as {saved}, the model has {expected[name]}")
        if problems:
            raise StateError(self.folder / MODEL, sorted(problems), SAME_CONFIG_HINT)
        if self.optimizer != optimizer:
            problem = f"optimizer: saved from {self.optimizer}, this run has {optimizer}"
            raise StateError(self.folder / REST, [problem], SAME_CONFIG_HINT)
        unknown = sorted(name for name in self._keys if name not in own)
        if unknown:
            problems = [f"{name}: the model does not have this parameter" for name in unknown]
            raise StateError(self.folder / OPTIMIZER, problems, SAME_CONFIG_HINT)


def leave_out(model: nn.Module, names: Iterable[str]) -> None:
    """Leave weights out of every checkpoint: they are not trained, and the model has them before a checkpoint is loaded."""
    setattr(model, LEFT_OUT, frozenset(names))


def name_tensors(model: nn.Module, *, whole: bool = False) -> dict[str, Tensor]:
    """Parameters and buffers of a model's state by name, not copied; a tied tensor has its first name only.

    Args:
        model: any.
        whole: include the weights that no checkpoint holds.
    """
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    left_out = () if whole else getattr(model, LEFT_OUT, ())
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen and name not in left_out:
            seen.add(id(tensor))
            tensors[name] = tensor
    return tensors


def find_ties(model: nn.Module) -> dict[str, str]:
    """Map every name in the model's `state_dict` to the first name of the same tensor."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in model.state_dict(keep_vars=True).items()}


def expand_ties(weights: Mapping[str, Tensor], ties: Mapping[str, str]) -> dict[str, Tensor]:
    """Add a copy of each tied weight for each of its names, as a model's `load_state_dict` requires."""
    return {name: weights[first] if name == first else weights[first].clone() for name, first in ties.items()}


def describe_tensors(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Dtype and shape of each tensor as text, such as ``float32 [3, 5]``."""
    return {
        name: f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}" for name, tensor in tensors.items()
    }


def copy_to_cpu(tensor: Tensor) -> Tensor:
    """Copy a tensor to the CPU, so that training does not change it."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def name_optimizers(optimizers: Sequence[Optimizer]) -> str:
    """The classes of the optimizers of all phases, such as ``Adam, SGD``."""
    return ", ".join(type(optimizer).__name__ for optimizer in optimizers)


def collect(tensors: Mapping[str, Tensor], *optimizers: Optimizer) -> TrainingState:
    """Copy the state of a model that is whole on this process; no parameter belongs to two optimizers."""
    entries: dict[str, dict[str, Tensor | float]] = {}
    for name, tensor in tensors.items():
        own = next((optimizer.state[tensor] for optimizer in optimizers if tensor in optimizer.state), None)
        if own:
            entries[name] = {
                key: copy_to_cpu(value) if isinstance(value, Tensor) else value for key, value in _flatten(own).items()
            }
    weights = {name: copy_to_cpu(tensor) for name, tensor in tensors.items()}
    return TrainingState(weights, name_optimizers(optimizers), entries)


def _flatten(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Entries without lists: that of L-BFGS has lists of tensors. The name of an element is ``key[3]``."""
    flat: dict[str, Any] = {}
    for key, value in entries.items():
        if isinstance(value, list):
            flat[f"{key}[]"] = len(value)
            flat |= {f"{key}[{number}]": element for number, element in enumerate(value) if element is not None}
        elif value is not None:
            flat[key] = value
    return flat


def _unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """
    Raises:
        ValueError: the lists are too long.
    """
    entries = {key: value for key, value in flat.items() if not key.endswith("]")}
    lengths = {key.removesuffix("[]"): length for key, length in flat.items() if key.endswith("[]")}
    if not (
        all(isinstance(each, int) and each >= 0 for each in lengths.values()) and sum(lengths.values()) <= MAX_LIST
    ):
        raise ValueError(f"the optimizer's lists have {lengths} elements, but at most {MAX_LIST} are read")
    for name, length in lengths.items():
        entries[name] = [flat.get(f"{name}[{number}]") for number in range(length)]
    return entries


def restore(
    saved: SavedState,
    tensors: Mapping[str, Tensor],
    optimizers: Sequence[Optimizer],
    cut: Callable[[str, Tensor], Tensor] | None = None,
) -> None:
    """Copy a saved state into the tensors of this rank and their optimizers.

    Args:
        saved: already checked with `SavedState.check`.
        tensors: parameters and buffers of this rank, by name.
        optimizers: of some or all of these tensors.
        cut: takes this rank's part of a whole tensor; None: the rank has whole tensors.
    """
    part = cut or (lambda name, whole: whole)
    names = {id(tensor): name for name, tensor in tensors.items()}
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(part(name, saved.weight(name)))
    for optimizer in optimizers:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Any]] = {}
        for index, parameter in enumerate(parameters):
            name = names[id(parameter)]
            entries = _unflatten(saved.entries(name))
            if entries:
                state[index] = {
                    key: part(name, value)
                    if isinstance(value, Tensor) and value.shape == saved.weight(name).shape
                    else value
                    for key, value in entries.items()
                }
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _describe_slice(tensor_slice: Any) -> str:
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool", "U8": "uint8"}
    names |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
    return f"{names.get(tensor_slice.get_dtype(), tensor_slice.get_dtype())} {list(tensor_slice.get_shape())}"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that the users may read to whom the umask allows it.

    Raises:
        OSError: it cannot be written, for example because the disk is full.
    """
    path.open("ab").close()  # gets that mode; safetensors 0.8.0 renames a temporary file, which only its owner may read
    mode = stat.S_IMODE(path.stat().st_mode)
    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as err:
        # safetensors 0.8.0 reports a full disk only as text; the caller needs the errno.
        number = re.search(r"os error (\d+)", str(err))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from err
    path.chmod(mode)


def write_tree(folder: Path, name: str, tree: Any) -> None:
    """Write lists and maps of tensors, numbers and texts, without pickle.

    Raises:
        ValueError: it has a value of another kind, or a map with a key that is not text.
    """
    tensors: dict[str, Tensor] = {}

    def encode(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors[str(len(tensors))] = copy_to_cpu(value)
            return {_TENSOR: len(tensors) - 1}
        if isinstance(value, dict):
            if other := [key for key in value if not isinstance(key, str)]:
                raise ValueError(f"{name}: the key {other[0]!r} of a map is not text; use texts")
            return {key: encode(each) for key, each in value.items()}
        return [encode(each) for each in value] if isinstance(value, (list, tuple)) else value

    _write_json(folder / f"{name}.json", encode(tree))
    write_tensors(folder / f"{name}.safetensors", tensors)


def read_tree(folder: Path, name: str) -> Any:
    """Read what `write_tree` wrote; a tuple has become a list.

    Raises:
        StateError: a file is missing or damaged.
    """
    path = folder / f"{name}.safetensors"
    plain = _read_json(folder / f"{name}.json")
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no mapping
    except (SafetensorError, OSError) as err:
        raise StateError(path, [str(err)], OLDER_HINT) from err

    def decode(value: Any) -> Any:
        if isinstance(value, dict):
            number = value.get(_TENSOR)
            return tensors[str(number)] if number is not None else {key: decode(each) for key, each in value.items()}
        return [decode(each) for each in value] if isinstance(value, list) else value

    try:
        return decode(plain)
    except KeyError as err:
        raise StateError(path, [f"the tensor {err.args[0]} is missing"], OLDER_HINT) from err
    except RecursionError:
        raise StateError(folder / f"{name}.json", ["it is nested too deeply"], OLDER_HINT) from None


def _write_json(path: Path, value: object) -> None:
    try:
        text = json.dumps(value)
    except TypeError as err:
        raise ValueError(f"{path.name} can hold only numbers, text and lists, but {err}; use plain floats") from err
    path.write_text(text, encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():  # reading a FIFO waits for a writer
            raise ValueError("it is not a file")
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("it is not a map")
    except (ValueError, FileNotFoundError, RecursionError) as err:
        raise StateError(path, [str(err)], OLDER_HINT) from err
    return value
