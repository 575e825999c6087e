"""Handles SIGTERM and a closed terminal like Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def handled_signals() -> list[signal.Signals]:
    """The signals that this process does not ignore; nohup ignores SIGHUP."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def signals_as_interrupt(*, only_once: bool = True) -> Iterator[None]:
    """Let these signals raise KeyboardInterrupt, so that cleanup code runs. Works in the main thread only.

    Args:
        only_once: ignore later signals, so that they do not interrupt the cleanup.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in numbers if only_once else ():
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    numbers = handled_signals()
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
