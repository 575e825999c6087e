"""Signals that end a command as Ctrl-C does."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from experiments.core.signals import SIGNALS, signals_as_interrupt


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_second_signal_does_not_interrupt_the_cleanup() -> None:
    before, put_away = [signal.getsignal(number) for number in SIGNALS], list[signal.Signals]()

    def end() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            for number in SIGNALS:
                os.kill(os.getpid(), number)
                put_away.append(number)

    with pytest.raises(KeyboardInterrupt), signals_as_interrupt():
        end()
    assert put_away == list(SIGNALS)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_second_signal_counts_if_requested() -> None:
    def end() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it goes on")

    with pytest.raises(KeyboardInterrupt), signals_as_interrupt(only_once=False):
        end()


def test_an_ignored_sighup_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with signals_as_interrupt():
        os.kill(os.getpid(), signal.SIGHUP)
    with pytest.raises(KeyboardInterrupt), signals_as_interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
