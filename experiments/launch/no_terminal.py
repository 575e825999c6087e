"""Refuses debuggers and `input()` in a training process, which has no terminal: without this they would wait for ever."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, NoReturn

from experiments.core.errors import TrainingError

DEFAULT_DEBUGGERS = ("", "pdb.set_trace")


class NoTerminal(io.TextIOBase):
    """A standard input from which nothing can be read."""

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> NoReturn:
        raise _make_error("reading from standard input")

    def readline(self, size: int | None = -1) -> NoReturn:
        raise _make_error("reading from standard input, as a debugger and input() do,")

    def __next__(self) -> NoReturn:
        self.readline()


def refuse_terminal() -> None:
    """Let `breakpoint()`, `pdb.set_trace()`, `input()` and the like end the training with a message.

    `PYTHONBREAKPOINT` keeps its meaning: 0 skips breakpoints, and a debugger of another process can be named.
    """
    sys.stdin = NoTerminal()
    sys.breakpointhook = _on_breakpoint


def _on_breakpoint(*args: Any, **kwargs: Any) -> Any:
    if os.environ.get("PYTHONBREAKPOINT", "") in DEFAULT_DEBUGGERS:
        raise _make_error("breakpoint()")
    return sys.__breakpointhook__(*args, **kwargs)


def _make_error(what: str) -> TrainingError:
    return TrainingError(
        f"{what} needs a terminal, but this training runs in a process of its own, without one; "
        "add --here to `lathe run` or `lathe resume` to train in the process of the command, or remove the call"
    )
