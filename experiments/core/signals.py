"""SIGTERM and a closed terminal, heeded as Ctrl-C is."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def handled_signals() -> list[signal.Signals]:
    """Those that are not ignored, as a hang-up is under nohup."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def signals_as_interrupt(*, only_once: bool = True) -> Iterator[None]:
    """Let all of them raise KeyboardInterrupt, so that what was begun is put away; for the main thread alone.

    Args:
        only_once: a second one does not disturb the putting away. False: it is an answer, as where Ctrl-C ends a waiting.
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
