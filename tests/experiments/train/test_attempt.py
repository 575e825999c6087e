"""Which errors of a rank only mean that another rank has ended."""

from __future__ import annotations

import pytest
import torch

from experiments.train.attempt import _is_caused_by_another_rank

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
