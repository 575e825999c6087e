"""Runs a function on several ranks, forked from a process that has already imported torch and DeepSpeed."""

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
_CACHE: dict[tuple[Any, ...], Any] = {}
CONTEXT = multiprocessing.get_context("forkserver")
# Imports of every rank and worker, including torch's compiler, which every optimizer imports.
CONTEXT.set_forkserver_preload(
    [
        "modules.parallel.deepspeed.initialize",
        "tests.support.engines",
        "torch._dynamo",
        "experiments.train.attempt",
        "experiments.sweep.worker.worker",
    ]
)


class RankFailure(AssertionError):
    """A rank failed; the message contains its traceback."""


def run_on_ranks(world: int, function: Callable[..., T], *args: Any) -> list[T]:
    """Return the results of ``function(rank, *args)`` on all ranks; the function must be importable.

    Raises:
        RankError: a rank raised an error, died or timed out.
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
            replies = [_receive(pipe, Path(folder) / f"rank_{number}.txt") for number, pipe in enumerate(pipes)]
        finally:
            for process in processes:
                process.kill()
                process.join()
        errors = [f"rank {number}:\n{text}" for number, (has_failed, text) in enumerate(replies) if has_failed]
        if errors:
            raise RankFailure("\n".join(errors))
        return [result for _, result in replies]


def run_alone(function: Callable[..., T], *args: Any) -> T:
    """Return the result of ``function(rank, *args)`` in one process; cached, because many tests compare with it."""
    key = (function, *args)
    if key not in _CACHE:
        _CACHE[key] = run_on_ranks(1, function, *args)[0]
    result: T = _CACHE[key]
    return result


def _receive(pipe: Connection, log: Path) -> tuple[bool, Any]:
    try:
        if pipe.poll(TIMEOUT_S):
            has_failed, result = pipe.recv()
            return has_failed, f"{log.read_text()[-4000:]}\n{result}" if has_failed else result
        return True, f"no result after {TIMEOUT_S} s; it printed:\n{log.read_text()[-4000:]}"
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
