"""One shard: when it updates, what it does about staleness, and that a file brings it back."""

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


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def shard(
    policy: Policy, quota: int = 1, correction: str = "none", bounds: tuple[int, int] | None = None
) -> ParameterShard:
    flat = FlatParameters(model())
    correct = make_correction(correction, 0.5)  # type: ignore[arg-type]
    return ParameterShard(
        flat, bounds or (0, flat.size), partial(SGD, lr=0.1), lambda update: 1.0, correct, policy, quota
    )


def push(
    of: ParameterShard, chunk: int, update: int = 0, version: int = 0, value: float = 1.0, then: Tensor | None = None
) -> Push:
    gradient = torch.full_like(of.weights, value)
    return Push(
        chunk, update, version, gradient, [1.0] * 6, of.weights.clone() if then is None else then, of.buffers + chunk
    )


def test_shards_cut_anywhere_hold_every_weight_once() -> None:
    flat = FlatParameters(model())
    assert flat.size == 6 + 3 + 3 + 3 + 3 + 1
    bounds = [flat.shard(number, 4) for number in range(4)]
    assert [start for start, _ in bounds[1:]] == [stop for _, stop in bounds[:-1]]
    pieces = [piece for start, stop in bounds for piece in flat.pieces(start, stop)]
    assert sum(piece.stop - piece.start for piece in pieces) == flat.size
    assert [piece.offset for piece in pieces if piece.name == "0.weight"] == [0, 4]
    whole = flat.collect(torch.empty(flat.size))
    parts = [shard("each", bounds=own).weights for own in bounds]
    assert torch.equal(torch.cat(parts), whole)


def test_a_gradient_that_comes_twice_is_taken_once() -> None:
    own = shard("each")
    before = own.weights.clone()
    assert own.take(push(own, 3)) == ACCEPTED
    assert own.take(push(own, 3)) == ACCEPTED
    assert own.version == 1
    torch.testing.assert_close(own.weights, before - 0.1)


def test_a_round_is_the_mean_of_its_gradients_and_the_first_of_a_backed_up_one_make_it() -> None:
    own = shard("first", quota=2)
    before = own.weights.clone()
    assert own.take(push(own, 0, value=1.0)) == ACCEPTED
    assert own.version == 0
    assert own.take(push(own, 2, value=3.0)) == ACCEPTED
    assert own.take(push(own, 1, value=100.0)) == DROPPED
    torch.testing.assert_close(own.weights, before - 0.2)
    assert own.take(push(own, 3, update=1)) == ACCEPTED
    assert own.take(push(own, 1, update=0)) == DROPPED
    assert (own.version, own.lost) == (1, 0)
    own.take(push(own, 4, update=2))
    assert own.lost == 1, "half of a round was left by a server that died"


def test_corrections_are_those_of_their_papers() -> None:
    late = shard("each", correction="inverse_staleness")
    for chunk in range(4):
        late.take(push(late, chunk, version=chunk))
    before = late.weights.clone()
    late.take(push(late, 4, version=0))
    torch.testing.assert_close(late.weights, before - 0.1 / 4)
    bent = shard("each", correction="delay_compensation")
    now = bent.weights.clone()
    bent.take(push(bent, 0, value=2.0, then=now - 0.3))
    torch.testing.assert_close(bent.weights, now - 0.1 * (2 + 0.5 * 4 * 0.3))
    with pytest.raises(ValueError, match="knows no correction=newton; take one of none, inverse_staleness"):
        make_correction("newton", 1.0)  # type: ignore[arg-type]


def test_a_file_brings_a_shard_back_with_its_optimizer(tmp_path: Path) -> None:
    def fresh() -> ParameterShard:
        flat = FlatParameters(model())
        return ParameterShard(
            flat, (2, 11), partial(Adam, lr=0.1), lambda update: 1.0, make_correction("none", 0), "each", 1
        )

    own, other = fresh(), fresh()
    for chunk in range(3):
        own.take(push(own, chunk, value=chunk - 0.5))
    own.take_snapshot().write(tmp_path / "shard.safetensors")
    other.restore(ShardSnapshot.read(tmp_path / "shard.safetensors"))
    assert other.version == 3
    for each in (own, other):
        each.take(push(each, 2, value=9.0))  # which both have seen
        each.take(push(each, 3, value=0.7))
    assert torch.equal(own.weights, other.weights)
    assert own.version == other.version == 4


def test_mixed_dtypes_are_refused() -> None:
    mixed = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1).double())
    with pytest.raises(ValueError, match=r"weights of one dtype, but Sequential has torch\.float32, torch\.float64"):
        FlatParameters(mixed)
