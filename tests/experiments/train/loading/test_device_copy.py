from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from experiments.train.loading.device_copy import copy_ahead, one_ahead


def numbered(count: int) -> Iterator[Any]:
    return ((torch.full((2, 3), float(number)), {"target": torch.tensor([number])}) for number in range(count))


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_copy_starts_before_the_batch_in_front_of_it_is_used(count: int) -> None:
    events: list[str] = []

    def note(name: str, number: int) -> int:
        events.append(f"{name} {number}")
        return number

    batches = one_ahead(
        cast(Any, iter(range(count))), lambda batch: note("start", cast(int, batch)), lambda number: cast(Any, number)
    )
    assert [note("use", cast(int, batch)) for batch in batches] == list(range(count))
    for number in range(count - 1):
        assert events.index(f"start {number + 1}") < events.index(f"use {number}")
        assert f"start {number + 3}" not in events[: events.index(f"use {number}")], "and not two steps ahead"


def test_on_a_cpu_batches_are_not_touched() -> None:
    batches = numbered(3)
    assert copy_ahead(batches, torch.device("cpu")) is batches


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_arrive_on_the_gpu_with_their_values() -> None:
    device = torch.device("cuda")
    for number, (inputs, targets) in enumerate(cast(Iterator[Any], copy_ahead(numbered(20), device))):
        torch.cuda._sleep(1_000_000)  # type: ignore[no-untyped-call]
        assert isinstance(inputs, Tensor)
        assert inputs.is_cuda
        assert targets["target"].tolist() == [number]
        assert torch.equal(inputs.cpu(), torch.full((2, 3), float(number)))
