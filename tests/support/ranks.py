"""Runs a function on several processes at once, forked from one that has imported torch and DeepSpeed already."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from modules.parallel.base import Rank

T = TypeVar("T")
TIMEOUT_S = 120
_KNOWN: dict[tuple[Any, ...], Any] = {}
CONTEXT = multiprocessing.get_context("forkserver")
# What every rank and every worker would else import by itself, torch's compiler among it, which any optimizer asks for.
CONTEXT.set_forkserver_preload(
    [
        "modules.parallel.deepspeed.initialize",
        "tests.support.engines",
        "torch._dynamo",
        "experiments.train.attempt",
        "experiments.sweep.worker.worker",
    ]
)


class RankError(AssertionError):
    """A rank failed; the message holds its traceback."""


def on_ranks(world: int, function: Callable[..., T], *args: Any) -> list[T]:
    """What ``function(rank, *args)`` gives on every rank; it has to lie in a module that can be imported.

    Raises:
        RankError: a rank raised, died or did not end in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = f"file://{folder}/rendezvous"
        pipes, processes = [], []
        for number in range(world):
            receiver, sender = CONTEXT.Pipe(duplex=False)
            (Path(folder) / f"rank_{number}.txt").touch()
            rank = Rank(number, number, world, rendezvous if world > 1 else "")
            process = CONTEXT.Process(target=_run, args=(sender, folder, rank, function, args), daemon=True)
            process.start()
            sender.close()
            pipes.append(receiver)
            processes.append(process)
        try:
            told = [_receive(pipe, Path(folder) / f"rank_{number}.txt") for number, pipe in enumerate(pipes)]
        finally:
            for process in processes:
                process.kill()
                process.join()
        faults = [f"rank {number}:\n{text}" for number, (fault, text) in enumerate(told) if fault]
        if faults:
            raise RankError("\n".join(faults))
        return [result for _, result in told]


def alone(function: Callable[..., T], *args: Any) -> T:
    """What ``function(rank, *args)`` gives in one process; run once, however many tests hold their ranks against it."""
    asked = (function, *args)
    if asked not in _KNOWN:
        _KNOWN[asked] = on_ranks(1, function, *args)[0]
    found: T = _KNOWN[asked]
    return found


def _receive(pipe: Connection, log: Path) -> tuple[bool, Any]:
    try:
        if pipe.poll(TIMEOUT_S):
            fault, result = pipe.recv()
            return fault, f"{log.read_text()[-4000:]}\n{result}" if fault else result
        return True, f"nothing came in {TIMEOUT_S} s; it printed:\n{log.read_text()[-4000:]}"
    except EOFError:
        return True, f"it died; it printed:\n{log.read_text()[-4000:]}"


def _run(sender: Connection, folder: str, rank: Rank, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    import torch

    log = os.open(f"{folder}/rank_{rank.number}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    try:
        sender.send((False, function(rank, *args)))
    except BaseException:
        sender.send((True, traceback.format_exc()))
