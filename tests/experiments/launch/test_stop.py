"""A stop has a limit, whatever the code of a training does."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import torch
from torch._C._distributed_c10d import HashStore
from torch.distributed import ProcessGroupGloo
from torch.utils.data import DataLoader, Dataset

from experiments.launch import stop
from tests.support.ranks import CONTEXT
from tests.support.waiting import PATIENCE_S


def sleep() -> None:
    time.sleep(100)


def call_c() -> None:
    """Wait in a function that no signal interrupts."""
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)


def wait_for_a_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def read_a_pipe() -> None:
    os.read(os.pipe()[0], 1)


def wait_for_another_rank() -> None:
    """Wait in a collective that the other rank does not join."""
    store, groups = HashStore(), list[ProcessGroupGloo]()

    def join(rank: int) -> None:
        groups.append(ProcessGroupGloo(store, rank, 2, timedelta(hours=1)))

    other = threading.Thread(target=join, args=(1,))
    other.start()
    join(0)
    other.join()
    groups[0].allreduce([torch.ones(1)]).wait()  # type: ignore[attr-defined]


class EndlessExample(Dataset[int]):
    """Its only example never arrives."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        time.sleep(100)
        return 0


def wait_for_a_data_worker() -> None:
    multiprocessing.current_process().daemon = False  # as in a training, which may start workers
    next(iter(DataLoader(EndlessExample(), num_workers=1)))


def train(hang: Callable[[], None], folder: str) -> None:
    os.setsid()
    found = stop.StopSignal(timeout_s=0.25)
    found.on_limit = lambda reason: (Path(folder, "reason").write_text(reason), None)[1]
    children = [subprocess.Popen(["sleep", "100"]), subprocess.Popen(["sleep", "100"], start_new_session=True)]
    Path(folder, "new").write_text(" ".join(str(child.pid) for child in children))
    Path(folder, "new").rename(Path(folder, "children"))
    hang()


@pytest.mark.parametrize(
    ("hang", "number"),
    [
        (sleep, signal.SIGTERM), (call_c, signal.SIGTERM), (call_c, signal.SIGINT), (wait_for_a_lock, signal.SIGINT),
        (read_a_pipe, signal.SIGUSR2), (wait_for_another_rank, signal.SIGTERM), (wait_for_a_data_worker, signal.SIGTERM),
    ],
)  # fmt: skip
def test_a_training_that_hangs_ends_with_all_its_processes(
    tmp_path: Path, hang: Callable[[], None], number: signal.Signals
) -> None:
    process = CONTEXT.Process(target=train, args=(hang, str(tmp_path)), daemon=True)
    process.start()
    while not (tmp_path / "children").exists():
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(PATIENCE_S)
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "reason").read_text().startswith(f"{number.name}: the training did not stop within 0 s")
    for child in map(int, (tmp_path / "children").read_text().split()):
        while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
