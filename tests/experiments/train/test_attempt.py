"""How an attempt classifies the error that ends it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from experiments.core.errors import InputError
from experiments.core.files.read_file import read_yaml_map
from experiments.run.checkpoint import CheckpointError
from experiments.train.attempt import _is_caused_by_another_rank, classify_failure

DEVICE = "[enforce fail at ../third_party/gloo/gloo/transport/tcp/device.cc:84] ifa != nullptr. Unable to find address for: eth9"
PAIR = "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4242"


@pytest.mark.parametrize(
    ("error", "follows"),
    [
        (RuntimeError(PAIR), True),
        (torch.distributed.DistNetworkError("the process that holds the rendezvous has ended"), True),
        (torch.distributed.DistBackendError("NCCL error: ncclRemoteError: A call failed"), True),
        (RuntimeError(DEVICE), False),
        (torch.distributed.DistBackendError("NCCL error: ncclInvalidUsage: Duplicate GPU detected"), False),
        (torch.distributed.DistBackendError("NCCL error: ncclUnhandledCudaError: Call to CUDA function failed"), False),
        (torch.distributed.DistBackendError("NCCL: no socket interface found"), False),
        (RuntimeError("size mismatch"), False),
    ],
)
def test_error_about_this_machine_is_not_caused_by_another_rank(error: Exception, follows: bool) -> None:
    assert _is_caused_by_another_rank(error) is follows


def open_file(path: Path) -> None:
    path.open("rb")


def save_checkpoint(path: Path) -> None:
    try:
        path.mkdir()
    except OSError as err:
        raise CheckpointError("checkpoint of step 6 could not be written", 6, "No such file or directory") from err


@pytest.mark.parametrize("work", [open_file, read_yaml_map, save_checkpoint])
def test_a_missing_file_of_the_run_is_lost_data(tmp_path: Path, work: Callable[[Path], object]) -> None:
    run = tmp_path / "run"
    for folder, failure in ((run, "data lost"), (tmp_path / "data", "exception")):
        with pytest.raises((OSError, InputError, CheckpointError)) as error:
            work(folder / "attempts" / "1")
        assert classify_failure(error.value, run) == failure
