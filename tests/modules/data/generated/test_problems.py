from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

from modules.data.base import END, IGNORED, StreamShard, UserInputError
from modules.data.generated.adding import Adding
from modules.data.generated.copying import Copying
from modules.data.generated.pointing import ConvexHulls, SortedNumbers
from modules.data.generated.programs import CHARACTERS, Programs

PROBLEMS: dict[str, tuple[type, dict[str, Any]]] = {
    "adding": (Adding, {"num_steps": 7, "num_features": 2}),
    "copying": (Copying, {"num_pause_steps": 3, "num_symbols": 4, "num_classes": 5, "num_features": 7}),
    "programs": (Programs, {"num_digits": 3, "num_operations": 2, "operations": ["add", "if"], "vocab_size": 49}),
    "sorted_numbers": (SortedNumbers, {"num_points": 5, "num_features": 1}),
    "convex_hulls": (ConvexHulls, {"num_points": 6, "num_features": 2}),
}


def make(name: str) -> Any:
    kind, arguments = PROBLEMS[name]
    return kind(**arguments, num_val=6, num_test=8)


@pytest.mark.parametrize("name", PROBLEMS)
def test_examples_do_not_depend_on_replicas_and_never_repeat(name: str) -> None:
    train = make(name).load("train")
    whole = tree_leaves(train.batch(3, StreamShard(0, 1, 8), 0))
    halves = [tree_leaves(train.batch(3, StreamShard(number, 2, 4), 0)) for number in range(2)]
    for together, *parts in zip(whole, *halves, strict=True):
        assert torch.equal(together, torch.cat(parts))
    others = [tree_leaves(train.batch(step, StreamShard(0, 1, 8), seed)) for step, seed in ((4, 0), (3, 1))]
    assert not any(torch.equal(whole[0], other[0]) for other in others)


@pytest.mark.parametrize("name", PROBLEMS)
def test_validation_and_test_are_fixed_and_look_like_the_example(name: str) -> None:
    first, again = make(name), make(name)
    splits = {split: tree_leaves(first.load(split).inputs)[0] for split in ("val", "test")}
    assert [len(first.load(split)) for split in splits] == [6, 8]
    assert all(torch.equal(inputs, tree_leaves(again.load(split).inputs)[0]) for split, inputs in splits.items())
    assert not torch.equal(splits["val"], splits["test"][:6])
    real, blank = first.load("test").batch(torch.arange(3), torch.zeros(3)), first.example(3)
    assert [(each.shape, each.dtype) for each in tree_leaves(real)] == [
        (each.shape, each.dtype) for each in tree_leaves(blank)
    ]


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


def test_programs_have_the_values_of_python() -> None:
    data = Programs(3, 4, ["add", "subtract", "multiply", "if", "assign"], 49, 1, 60)
    inputs, targets = data.load("test").batch(torch.arange(60), torch.zeros(60))
    assert inputs.shape == targets.shape == (60, data.max_program_tokens + data.answer_width)
    for tokens, following in zip(inputs, targets, strict=True):
        program = "".join(CHARACTERS[token - 4] for token in tokens[: data.max_program_tokens].tolist() if token)
        *statements, expression = program.split(";")
        names: dict[str, int] = {}
        exec("\n".join(statements), names)
        answer = following[following != IGNORED]
        assert answer[-1] == END
        assert data.answer_text(program, answer[:-1]) == str(eval(expression, names))
        assert torch.equal(data.read([program])[0], tokens[: data.max_program_tokens + 1])


def test_training_programs_have_all_sizes_and_others_the_full_size() -> None:
    data = Programs(4, 3, ["add"], 49, 100, 1)
    digit_tokens = CHARACTERS.index("+") + 4
    for split, (inputs, _) in {
        "train": data.load("train").batch(0, StreamShard(0, 1, 100), 0),
        "val": data.load("val").batch(torch.arange(100), torch.zeros(100)),
    }.items():
        counts = (inputs == digit_tokens).sum(1).unique().tolist()
        assert counts == ([1, 2, 3] if split == "train" else [3])


def test_numbers_are_sorted_by_their_places() -> None:
    (points, so_far), places = make("sorted_numbers").load("test").batch(torch.arange(8), torch.zeros(8))
    assert torch.equal(points[..., 0].gather(1, places - 1), points[..., 0].sort(dim=1).values)
    assert so_far[:, 0].tolist() == [0] * 8
    assert torch.equal(so_far[:, 1:], places[:, :-1])


def test_hulls_turn_left_and_hold_all_points() -> None:
    (points, so_far), places = make("convex_hulls").load("test").batch(torch.arange(8), torch.zeros(8))
    for each, row, given in zip(points, places.tolist(), so_far.tolist(), strict=True):
        end = row.index(0)
        assert row[end + 1 :] == [IGNORED] * (len(row) - end - 1)
        assert given[: end + 1] == [0, *row[:end]]
        corners = each[[place - 1 for place in row[:end]]]
        assert corners[0, 0] == each[:, 0].min()
        for start, stop in zip(corners, corners.roll(-1, 0), strict=True):
            side, others = stop - start, each - start
            assert (side[0] * others[:, 1] - side[1] * others[:, 0] > -1e-6).all()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("programs", "3/4", "'/'"),
        ("sorted_numbers", "0.5 x", "not numbers"),
        ("sorted_numbers", "0.5", "at least 2"),
        ("sorted_numbers", "0.5 nan", "not finite"),
        ("convex_hulls", "0.5 0.6", "1 numbers in one place, but the model reads 2"),
    ],
)
def test_wrong_inputs_of_a_user_are_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        make(name).read([text])


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("adding", {"num_steps": 1}, "num_steps of at least 2"),
        ("adding", {"num_features": 3}, "num_features=2"),
        ("copying", {"num_features": 5}, "data.num_features=7"),
        ("copying", {"num_pause_steps": -1}, "num_pause_steps of at least 0"),
        ("programs", {"num_digits": 10}, "num_digits of at most 9"),
        ("programs", {"operations": []}, "at least one"),
        ("programs", {"vocab_size": 50}, "data.vocab_size=49"),
        ("sorted_numbers", {"num_features": 2}, "set it to 1"),
        ("convex_hulls", {"num_points": 2}, "num_points of at least 3"),
    ],
)
def test_wrong_sizes_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    kind, arguments = PROBLEMS[name]
    with pytest.raises(ValueError, match=message):
        kind(**arguments | changes, num_val=6, num_test=8)
