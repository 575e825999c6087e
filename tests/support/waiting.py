"""Waits for other processes and threads that end only on a fault: no test races the load of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE_S = 240.0
"""For every wait whose end is not what is tested; shorter than pytest's time-out, which reports less."""


def wait_until(condition: Callable[[], T | None], what: str | Callable[[], object] = "", *, pause_s: float = 0.05) -> T:
    """Return the value of a condition as soon as it is true.

    Args:
        condition: is called again and again.
        what: is expected; text for the error, or a function that describes the state then.
        pause_s: between two calls.

    Raises:
        AssertionError: the condition is still false after `PATIENCE_S`.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still false after {PATIENCE_S:.0f} s: {what() if callable(what) else what}")
        time.sleep(pause_s)
    return value
