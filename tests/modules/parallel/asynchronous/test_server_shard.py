"""A server shard: when it updates, how it corrects staleness, and how it is restored."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from modules.parallel.asynchronous.flat_parameters import FlatParameters
from modules.parallel.asynchronous.server_shard import ACCEPTED, DROPPED, ParameterShard, Policy, Push, ShardSnapshot
from modules.parallel.asynchronous.staleness import make_correction


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def make_shard(
    policy: Policy, quota: int = 1, correction: str = "none", bounds: tuple[int, int] | None = None
) -> ParameterShard:
    flat = FlatParameters(make_model())
    correct = make_correction(correction, 0.5)  # type: ignore[arg-type]
    return ParameterShard(
        flat, bounds or (0, flat.size), partial(SGD, lr=0.1), lambda update: 1.0, correct, policy, quota
    )


def make_push(
    shard: ParameterShard, chunk: int, update: int = 0, version: int = 0, value: float = 1.0, then: Tensor | None = None
) -> Push:
    gradient = torch.full_like(shard.weights, value)
    return Push(
        chunk,
        update,
        version,
        gradient,
        [1.0] * 6,
        shard.weights.clone() if then is None else then,
        shard.buffers + chunk,
    )


def test_shards_have_every_weight_once() -> None:
    flat = FlatParameters(make_model())
    assert flat.size == 6 + 3 + 3 + 3 + 3 + 1
    bounds = [flat.shard(number, 4) for number in range(4)]
    assert [start for start, _ in bounds[1:]] == [stop for _, stop in bounds[:-1]]
    pieces = [piece for start, stop in bounds for piece in flat.pieces(start, stop)]
    assert sum(piece.stop - piece.start for piece in pieces) == flat.size
    assert [piece.offset for piece in pieces if piece.name == "0.weight"] == [0, 4]
    whole = flat.collect(torch.empty(flat.size))
    parts = [make_shard("each", bounds=own).weights for own in bounds]
    assert torch.equal(torch.cat(parts), whole)


def test_a_gradient_that_is_sent_twice_is_applied_once() -> None:
    shard = make_shard("each")
    before = shard.weights.clone()
    assert shard.take(make_push(shard, 3)) == ACCEPTED
    assert shard.take(make_push(shard, 3)) == ACCEPTED
    assert shard.version == 1
    torch.testing.assert_close(shard.weights, before - 0.1)


def test_a_round_is_the_mean_of_its_first_gradients() -> None:
    shard = make_shard("first", quota=2)
    before = shard.weights.clone()
    assert shard.take(make_push(shard, 0, value=1.0)) == ACCEPTED
    assert shard.version == 0
    assert shard.take(make_push(shard, 2, value=3.0)) == ACCEPTED
    assert shard.take(make_push(shard, 1, value=100.0)) == DROPPED
    torch.testing.assert_close(shard.weights, before - 0.2)
    assert shard.take(make_push(shard, 3, update=1)) == ACCEPTED
    assert shard.take(make_push(shard, 1, update=0)) == DROPPED
    assert (shard.version, shard.lost) == (1, 0)
    shard.take(make_push(shard, 4, update=2))
    assert shard.lost == 1, "a dead server left half of a round"


def test_corrections_follow_their_papers() -> None:
    stale = make_shard("each", correction="inverse_staleness")
    for chunk in range(4):
        stale.take(make_push(stale, chunk, version=chunk))
    before = stale.weights.clone()
    stale.take(make_push(stale, 4, version=0))
    torch.testing.assert_close(stale.weights, before - 0.1 / 4)
    compensated = make_shard("each", correction="delay_compensation")
    current = compensated.weights.clone()
    compensated.take(make_push(compensated, 0, value=2.0, then=current - 0.3))
    torch.testing.assert_close(compensated.weights, current - 0.1 * (2 + 0.5 * 4 * 0.3))
    with pytest.raises(ValueError, match="knows no correction=newton; take one of none, inverse_staleness"):
        make_correction("newton", 1.0)  # type: ignore[arg-type]


def test_a_shard_is_restored_with_its_optimizer(tmp_path: Path) -> None:
    def make_adam_shard() -> ParameterShard:
        flat = FlatParameters(make_model())
        return ParameterShard(
            flat, (2, 11), partial(Adam, lr=0.1), lambda update: 1.0, make_correction("none", 0), "each", 1
        )

    shard, restored = make_adam_shard(), make_adam_shard()
    for chunk in range(3):
        shard.take(make_push(shard, chunk, value=chunk - 0.5))
    shard.take_snapshot().write(tmp_path / "shard.safetensors")
    restored.restore(ShardSnapshot.read(tmp_path / "shard.safetensors"))
    assert restored.version == 3
    for each in (shard, restored):
        each.take(make_push(each, 2, value=9.0))  # both have already applied it
        each.take(make_push(each, 3, value=0.7))
    assert torch.equal(shard.weights, restored.weights)
    assert shard.version == restored.version == 4


def test_mixed_dtypes_are_refused() -> None:
    mixed = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1).double())
    with pytest.raises(ValueError, match=r"weights of one dtype, but Sequential has torch\.float32, torch\.float64"):
        FlatParameters(mixed)
