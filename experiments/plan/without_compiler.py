"""Plans without importing torch's compiler, which takes a third of the time of `lathe plan`."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")
COMPILER = "torch._dynamo"


def without_compiler(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that makes models, optimizers and fake tensors, so that they do not import the compiler.

    torch 2.13 imports it when an optimizer is made, to tell it not to compile some functions, which has no effect outside of
    compiled code, and for the configuration of fake tensors. A function that turns out to use more of it is called again.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        if COMPILER not in sys.modules:
            with _stand_in():
                try:
                    return function(*args, **kwargs)
                except _NeedsCompilerError:
                    pass
        return function(*args, **kwargs)

    return wrapper


class _NeedsCompilerError(BaseException):
    """More of the compiler is used than the stand-in has; no handler of `Exception` catches it."""


class _StandIn(ModuleType):
    """A module in place of the compiler, with its configuration and the two functions that others call."""

    def __init__(self) -> None:
        super().__init__(COMPILER)
        self.functions: list[Any] = []

    def graph_break(self, message: str = "") -> None:
        """Do what the original does outside of compiled code: nothing."""

    def disable(self, function: Any, *_: object, **__: object) -> Any:
        self.functions.append(function)
        return function

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # of those who look at all modules
            raise AttributeError(name)
        raise _NeedsCompilerError(name)  # with __path__: an import of another part


@contextmanager
def _stand_in() -> Iterator[None]:
    module = _StandIn()
    sys.modules[COMPILER] = vars(torch)["_dynamo"] = module
    try:
        module.__path__ = [str(Path(torch.__file__).parent / "_dynamo")]
        importlib.import_module(f"{COMPILER}.config")
        del module.__path__
        yield
    finally:
        for name in [name for name in sys.modules if name == COMPILER or name.startswith(f"{COMPILER}.")]:
            del sys.modules[name]
        del vars(torch)["_dynamo"]
        for function in module.functions:  # torch keeps here what `disable` returned
            vars(function).pop("__dynamo_disable", None)
