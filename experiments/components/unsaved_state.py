"""Finds state of a training that changes from step to step and that no checkpoint holds: a resume would lose it."""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsFloat

import numpy as np
import torch
from safetensors import safe_open
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from experiments.components.assemble import Components
from experiments.core.errors import TrainingError
from experiments.core.files.packages import public_name

_LIBRARIES = frozenset({"torch", "numpy", "deepspeed", "builtins", "types"})
"""Plain attributes of their classes are not looked at, even where a component is of such a class."""
_MAX_DEPTH = 4
OPT_OUT = "recomputed"
"""Class attribute with the names of attributes whose earlier values no step depends on, such as a cache."""


@dataclass(frozen=True)
class _Part:
    """One attribute with state."""

    path: str
    fix: str
    content: frozenset[str]
    """Digests of its tensors and numbers."""


_NOTHING = _Part("", "", frozenset())


def find_changes(
    component: object, name: str, work: Callable[[], object], ignored: Collection[object] = ()
) -> list[str]:
    """The attributes of a component that some work changes, such as ``evaluator.history``, without those of ignored objects."""

    def find() -> dict[str, _Part]:
        walk = _Walk(set(), {_package(component)} - _LIBRARIES)
        walk.visited |= set(map(id, ignored))
        walk.owner(name, component)
        return walk.parts

    before = find()
    work()
    return [path for path, part in find().items() if path in before and part.content != before[path].content]


def check_model(model: nn.Module) -> None:
    """Check before training that the state of every module consists of tensors, which is what a checkpoint holds.

    Raises:
        ValueError: a module has a state of another kind.
    """
    problems = [
        f"model{_dotted(name)} ({type(module).__name__}) has get_extra_state, but a checkpoint holds only the parameters and "
        "buffers of a model; keep this state in a buffer (self.register_buffer)"
        for name, module in model.named_modules()
        if type(module).get_extra_state is not nn.Module.get_extra_state
    ]
    if problems:
        raise ValueError("; ".join(problems))


class UnsavedState:
    """Compares the state of the components after two steps."""

    def __init__(self, components: Components) -> None:
        self.components = components
        self.before: dict[str, _Part] | None = None
        self.num_steps = 0
        self.num_checks = 0
        """Checks before a checkpoint: 1 after the first, 2 if an evaluation was before it."""

    def after_step(self, number: int) -> None:
        """Look at the components after the first step of this attempt, and compare after the second.

        Args:
            number: of the step in this attempt, from 1.

        Raises:
            TrainingError: see `check`.
        """
        self.num_steps = number
        if number == 1:
            self.before = self._find()
        elif number == 2:
            self.check()

    def before_save(self, *, is_evaluated: bool = False) -> None:
        """Compare again before the first checkpoint, and the first one after an evaluation: some state changes rarely.

        Args:
            is_evaluated: whether there was an evaluation.

        Raises:
            TrainingError: see `check`.
        """
        if self.num_steps > 2 and self.num_checks < 1 + is_evaluated:
            self.num_checks = 1 + is_evaluated
            self.check()

    def check(self) -> None:
        """Compare now.

        Raises:
            TrainingError: an attribute has changed, and a checkpoint of now would not hold it.
        """
        if self.before is None:
            return
        changed = [
            part
            for path, part in self._find().items()
            if (path in self.before or path.startswith("callback."))
            and part.content != self.before.get(path, _NOTHING).content
        ]
        in_callbacks = self._saved_by_callbacks()
        changed = [part for part in changed if not (part.path.startswith("callback.") and part.content <= in_callbacks)]
        if changed and _is_own(self.components.engine):
            saved = self._saved_content()
            changed = [part for part in changed if saved is not None and not part.content <= saved]
        if changed:
            lines = "".join(f"\n  - {part.path}: {part.fix}" for part in changed)
            raise TrainingError(
                f"{len(changed)} attributes change from step to step, but no checkpoint holds them, so a resumed run would go on "
                f"differently:{lines}\nIf no step depends on an earlier value of one, as of a cache, name it in its class: "
                f'`{OPT_OUT} = ("cache",)`'
            )

    def _find(self) -> dict[str, _Part]:
        """All state outside of the model's parameters and buffers and the engine's optimizer, by path."""
        setup, engine = self.components.setup, self.components.engine
        known = {id(tensor) for tensor in setup.model.state_dict(keep_vars=True).values()}
        callbacks, task = self.components.callbacks, setup.task
        transforms = setup.gradient_transforms
        parts = (setup.model, setup.objective, setup.schedule, engine, task, *callbacks.values(), *transforms)
        packages = {_package(each) for each in parts}
        walk = _Walk(known, packages - _LIBRARIES)
        walk.visited |= {
            id(each) for each in (setup, setup.model, setup.objective, setup.schedule, self.components.data)
        }
        walk.visited |= {id(getattr(engine, name, None)) for name in ("optimizer", "scaler", "forward", "ranks")}
        walk.visited |= {id(module) for module in setup.model.modules()}
        for name, module in setup.model.named_modules():
            walk.owner(f"model{_dotted(name)}", module, is_model=True)
        for name, component in (("objective", setup.objective), ("schedule", setup.schedule), ("task", task)):
            walk.owner(name, component)
        for name, callback in callbacks.items():
            walk.is_complete = True
            walk.owner(f"callback.{name}", callback)
        walk.is_complete = False
        for number, transform in enumerate(transforms):
            walk.owner(f"gradient[{number}]", transform)
        for update in getattr(engine, "updates", ()):  # a checkpoint holds the state of an optimizer, not its groups
            for number, group in enumerate(update.optimizer.param_groups):
                values = {name: value for name, value in group.items() if name not in ("params", "lr")}
                walk.attribute(f"optimizer.{update.phase.name}[{number}]", values, 0, _FIX_OF_GROUP)
        if not public_name(type(engine).__module__).startswith("modules.parallel."):
            walk.owner("parallel", engine)
        return walk.parts

    def _saved_by_callbacks(self) -> frozenset[str]:
        """The digests of all that the callbacks save."""
        walk = _Walk(set(), set())
        walk.is_complete = True
        for callback in self.components.callbacks.values():
            walk.attribute("", callback.state_dict(), 0, "")
            walk.parts[f"{len(walk.parts)}"] = walk.parts.pop("", _Part("", "", frozenset()))
        return frozenset().union(*(part.content for part in walk.parts.values()))

    def _saved_content(self) -> frozenset[str] | None:
        """The digests of all that a checkpoint of now holds; None if it has files that cannot be read here, or on other ranks."""
        write = self.components.engine.snapshot()
        if write is None:
            return None
        with tempfile.TemporaryDirectory(prefix="lathe-state-") as scratch:
            write(Path(scratch))
            found = set[str]()
            for path in Path(scratch).rglob("*"):
                if path.suffix == ".safetensors":
                    with safe_open(path, "pt") as file:
                        found |= {_digest(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118  # no mapping
                elif path.suffix == ".json":
                    found |= set(_numbers(json.loads(path.read_text(encoding="utf-8"))))
                elif path.is_file():
                    return None
        return frozenset(found)


class _Walk:
    """Collects the state of objects; each object counts once."""

    def __init__(self, known: set[int], packages: set[str]) -> None:
        """
        Args:
            known: ids of tensors that a checkpoint holds.
            packages: those whose classes may hold state in plain attributes; others have counters and caches of their own.
        """
        self.known, self.packages = known, packages
        self.visited, self.parts = set[int](), dict[str, _Part]()
        self.is_complete = False
        """Whether texts and None are state too; in other components than callbacks they are mostly settings and caches."""

    def owner(self, path: str, owner: object, depth: int = 0, *, is_model: bool = False) -> None:
        """Look at the attributes of one object."""
        opted_out = getattr(type(owner), OPT_OUT, ())
        if isinstance(owner, nn.Module):
            for name, tensor in [*owner._parameters.items(), *owner._buffers.items()]:
                if tensor is not None and name not in opted_out:
                    self.attribute(f"{path}.{name}", tensor, depth, _fix_of_tensor(path, name, owner, is_model))
            for name, module in owner._modules.items():
                if module is not None and name not in opted_out and id(module) not in self.visited:
                    self.visited.add(id(module))
                    self.owner(f"{path}.{name}", module, depth + 1)
        if _package(owner) not in self.packages:
            return
        for name, value in getattr(owner, "__dict__", {}).items():
            is_of_library = isinstance(owner, nn.Module) and (name in _MODULE_ATTRIBUTES or name.startswith("ds_"))
            if name not in opted_out and not is_of_library:
                self.attribute(f"{path}.{name}", value, depth, _fix_of_plain(path, value))

    def attribute(self, path: str, value: object, depth: int, fix: str) -> None:
        """Look at one attribute."""
        content = frozenset(self._content(path, value, depth, fix))
        if content:
            self.parts[path] = _Part(path, fix, content)

    def _content(self, path: str, value: object, depth: int, fix: str) -> Iterator[str]:
        if isinstance(value, bool | int | float | np.number):
            yield _number(value)
        elif value is None or isinstance(value, str | bytes):
            if self.is_complete:
                yield repr(value)
        elif isinstance(value, Tensor):
            if id(value) not in self.known:
                yield _digest(value)
        elif isinstance(value, np.ndarray):
            yield hashlib.blake2b(value.tobytes()).hexdigest()
        elif isinstance(value, Generator):
            yield _digest(value.get_state())
        elif isinstance(value, random.Random):
            yield repr(value.getstate())
        elif isinstance(value, np.random.Generator | np.random.RandomState):
            state = (
                value.bit_generator.state if isinstance(value, np.random.Generator) else value.get_state(legacy=False)
            )
            yield repr(state)
        elif isinstance(value, list | tuple | set | deque | Mapping):
            if depth < _MAX_DEPTH and len(value) <= 10_000:
                each = [*value.values()] if isinstance(value, Mapping) else [*value]
                yield repr(len(each))
                for number, element in enumerate(each):
                    yield from self._content(f"{path}[{number}]", element, depth + 1, fix)
        elif id(value) not in self.visited and not _is_code(value):
            self.visited.add(id(value))
            yield from self._object(path, value, depth, fix)

    def _object(self, path: str, value: object, depth: int, fix: str) -> Iterator[str]:
        """An object: by its own way to save state, or by its attributes."""
        if isinstance(value, nn.Module):
            self.owner(path, value, depth + 1)
        elif isinstance(value, Optimizer):  # its groups hold the learning rate, which follows from the step
            for number, state in enumerate(value.state.values()):
                for element in state.values():
                    yield from self._content(f"{path}[{number}]", element, depth + 2, fix)
        elif all(callable(getattr(type(value), name, None)) for name in ("state_dict", "load_state_dict")):
            yield from self._content(path, value.state_dict(), depth, fix)  # type: ignore[attr-defined]
        elif hasattr(value, "__dict__") and depth < _MAX_DEPTH:
            self.owner(path, value, depth + 1)


_MODULE_ATTRIBUTES = frozenset(nn.Module().__dict__) | {
    "all_parameters", "applied_pre_backward_ref_cnt", "wall_clock_breakdown", "_external_params", "_original_parameters",
}  # fmt: skip
"""Attributes of every module: its parameters, buffers, hooks and mode; and what DeepSpeed 0.19 adds, besides names in ``ds_``."""


def _is_code(value: object) -> bool:
    """Functions, classes and modules of Python, which hold no state of a training."""
    return isinstance(value, type) or type(value).__module__ == "builtins"


def _package(value: object) -> str:
    return type(value).__module__.partition(".")[0]


def _number(value: SupportsFloat) -> str:
    try:
        return repr(float(value))
    except OverflowError:
        return repr(value)


def _is_own(engine: object) -> bool:
    """Whether the engine writes its own checkpoints, which may hold more than a model and its optimizer."""
    return not public_name(type(engine).snapshot.__module__).startswith("modules.parallel.")  # type: ignore[attr-defined]


def _digest(tensor: Tensor) -> str:
    """Of the content; numbers compare equal in any container."""
    tensor = tensor.detach()
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        return f"{tensor.shape}"
    if tensor.numel() == 1 and not tensor.is_complex():
        return repr(float(tensor))
    content = tensor.to("cpu").contiguous().reshape(-1).view(torch.uint8)
    return hashlib.blake2b(content.numpy().tobytes()).hexdigest() + str(tensor.dtype)


def _numbers(value: object) -> Iterator[str]:
    if isinstance(value, bool | int | float):
        yield _number(value)
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _numbers(each)
    if isinstance(value, dict | list):
        yield repr(len(value))


def _fix_of_tensor(path: str, name: str, owner: nn.Module, is_model: bool) -> str:
    if is_model:
        return "it is a buffer with persistent=False; register it with persistent=True"
    return f"it is a tensor of a module that is no part of the model; make the module a submodule of the model ({path})"


_FIX_OF_GROUP = (
    "the optimizer changes a value of its parameter group, and a checkpoint holds only `state[parameter]`; "
    "use an optimizer that keeps the value there"
)


def _fix_of_plain(path: str, value: object) -> str:
    if path.startswith("callback."):
        return f"it is a {type(value).__name__} of a callback; return it from `state_dict`, and read it in `load_state_dict`"
    if path.startswith("gradient["):
        return f"it is a {type(value).__name__} of a gradient transform, which keeps no state; compute it from the step"
    if path.startswith("parallel"):
        return f"it is a {type(value).__name__} of the engine; write it in `snapshot` and read it in `load`"
    if isinstance(value, Generator | random.Random | np.random.Generator | np.random.RandomState):
        return "it is a random generator; draw from the global generators, which are seeded anew for every step"
    if path.startswith("model"):
        return f"it is a plain {type(value).__name__}; make it a buffer (self.register_buffer), or a submodule"
    return f"it is a {type(value).__name__} outside of the model; move it into the model as a buffer or submodule"


def _dotted(name: str) -> str:
    return f".{name}" if name else ""
