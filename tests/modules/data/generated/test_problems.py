from typing import Any

import pytest
import torch

from modules.data.base import StreamShard
from modules.data.generated.adding import Adding
from modules.data.generated.copying import Copying

PROBLEMS: dict[str, tuple[type, dict[str, Any]]] = {
    "adding": (Adding, {"num_steps": 7, "num_features": 2}),
    "copying": (Copying, {"num_pause_steps": 3, "num_symbols": 4, "num_classes": 5, "num_features": 7}),
}


def make(name: str) -> Any:
    kind, arguments = PROBLEMS[name]
    return kind(**arguments, num_val=6, num_test=8)


@pytest.mark.parametrize("name", PROBLEMS)
def test_examples_do_not_depend_on_replicas_and_never_repeat(name: str) -> None:
    train = make(name).load("train")
    whole = train.batch(3, StreamShard(0, 1, 8), 0)
    halves = [train.batch(3, StreamShard(number, 2, 4), 0) for number in range(2)]
    for together, *parts in zip(whole, *halves, strict=True):
        assert torch.equal(together, torch.cat(parts))
    others = [train.batch(step, StreamShard(0, 1, 8), seed)[0] for step, seed in ((4, 0), (3, 1))]
    assert not any(torch.equal(whole[0], other) for other in others)


@pytest.mark.parametrize("name", PROBLEMS)
def test_validation_and_test_are_fixed_and_look_like_the_example(name: str) -> None:
    first, again = make(name), make(name)
    for split, size in (("val", 6), ("test", 8)):
        assert len(first.load(split)) == size
        assert torch.equal(first.load(split).inputs, again.load(split).inputs)
    assert not torch.equal(first.load("val").inputs, first.load("test").inputs[:6])
    for real, blank in zip(first.load("test").batch(torch.arange(3), torch.zeros(3)), first.example(3), strict=True):
        assert (real.shape, real.dtype) == (blank.shape, blank.dtype)


def test_two_numbers_are_marked_and_added() -> None:
    inputs, sums = (make("adding").load("test").inputs, make("adding").load("test").targets)
    numbers, marks = inputs.unbind(2)
    assert marks[:, :3].sum(1).tolist() == marks[:, 3:].sum(1).tolist() == [1.0] * 8
    assert torch.allclose((numbers * marks).sum(1, keepdim=True), sums)


def test_symbols_come_before_the_pause_and_the_sign() -> None:
    split = make("copying").load("test")
    tokens = split.inputs.argmax(2)
    assert torch.equal(tokens[:, :4], split.targets)
    assert tokens[:, 4:].tolist() == [[5, 5, 5, 6, 5, 5, 5]] * 8


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("adding", {"num_steps": 1}, "num_steps of at least 2"),
        ("adding", {"num_features": 3}, "num_features=2"),
        ("copying", {"num_features": 5}, "data.num_features=7"),
        ("copying", {"num_pause_steps": -1}, "num_pause_steps of at least 0"),
    ],
)
def test_wrong_sizes_are_refused(name: str, changes: dict[str, int], message: str) -> None:
    kind, arguments = PROBLEMS[name]
    with pytest.raises(ValueError, match=message):
        kind(**arguments | changes, num_val=6, num_test=8)
