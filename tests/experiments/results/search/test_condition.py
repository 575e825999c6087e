"""The conditions that runs are searched by: what they mean, and what is said where they are wrong."""

from __future__ import annotations

import math
import random
from datetime import datetime
from typing import Any

import pytest

from experiments.core.errors import InputError
from experiments.results.search.condition import MOST_NESTED, comparisons, parse

RUN: dict[str, Any] = {
    "optimizer.lr": 0.003,
    "model": "lenet",
    "model.sizes": [64, 32],
    "compile": False,
    "description": "null",
    "name": "It's Wide",
    "seed": 0,
    "val/loss_nats": math.nan,
    "created": datetime(2026, 11, 24, 12).timestamp(),
}


def holds(text: str) -> bool:
    return parse(text).holds(RUN.get)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.lr<0.01", True),
        ("optimizer.lr < 3e-3", False),
        ("optimizer.lr<=3e-3 and optimizer.lr>=0.0030", True),
        ("optimizer.lr=0.0030", True),
        ("optimizer.lr == .003", True),
        ("optimizer.lr != 0.003", False),
        ("model=lenet", True),
        ("model='lenet' or seed=7", True),
        ("model~NET", True),
        ("model=le", False),
        ("model>1", False),  # a word is in no order with a number
        ("model.sizes=[64,32]", True),
        ("model.sizes~32", True),
        ("compile=false", True),
        ("compile=0", False),
        ("compile<1", False),
        ("description=null", True),
        ('name="It\'s Wide"', True),
        ("name ~ 'wide'", True),
        ("seed=0 and model=lenet or model=mlp", True),
        ("model=mlp and seed=0 or seed=0", True),  # and binds first
        ("model=mlp and (seed=0 or seed=0)", False),
        ("not model=mlp and not seed=1", True),
        ("NOT (model=mlp OR seed=1)", True),
        ("not not seed=0", True),
        ("nosuch=1", False),
        ("nosuch!=1", False),  # it has no such key, and fulfils no comparison with it
        ("not nosuch=1", True),
        ("val/loss_nats=nan", True),
        ("val/loss_nats<9 or val/loss_nats>=9", False),
        ("created>2026-11-24", True),
        ("created < 2026-11-24T11:59", False),
        ("created != 2026-11-23", True),
        ("model=and", False),  # a joint where a value stands is a word
    ],
)
def test_a_condition_holds_or_not(text: str, expected: bool) -> None:
    assert holds(text) is expected


@pytest.mark.parametrize(
    ("text", "told", "at"),
    [
        ("optimizer.lr<", "after optimizer.lr< a value is missing", 13),
        ("optimizer.lr", "after optimizer.lr an operator is missing", 12),
        ("<3", "a key is missing here", 0),
        ("lr<abc", "abc is no number, and < compares numbers", 3),
        ("(lr<3", "a parenthesis is not closed", 5),
        ("lr<3)", "')' is one word too many", 4),
        ("lr<3 seed=1", "'seed' is one word too many", 5),
        ("lr<3 and", "a key is missing here", 8),
        ("lr<3 and or seed=1", "a key is missing here", 9),
        ("name='open", '"\'" opens no value that ends', 5),
        ("lr!3", "'!' opens no value that ends", 2),
        ("created>yesterday", "yesterday is no date; write one such as 2026-11-24", 8),
        ("lr = = 3", "after lr= a value is missing", 5),
        ("'lr'=3", "a key is missing here", 0),
        ("not " * (MOST_NESTED + 1) + "lr=1", f"nested deeper than {MOST_NESTED} times", 4 * MOST_NESTED),
        ("(" * 100_000, f"nested deeper than {MOST_NESTED} times", MOST_NESTED),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, told: str, at: int) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    line, shown, mark = caught.value.problems[0].splitlines()
    assert told in line
    assert shown.strip() == " ".join(text.split("\n")).strip()
    assert mark.index("^") - (len(shown) - len(shown.lstrip())) == at


def test_every_comparison_is_found_from_left_to_right() -> None:
    found = comparisons(parse("a=1 and (b<2 or not c~x) and d!=y"))
    assert [(one.key, one.op, one.value, one.at) for one in found] == [
        ("a", "=", "1", 0), ("b", "<", "2", 9), ("c", "~", "x", 20), ("d", "!=", "y", 29),
    ]  # fmt: skip


def test_garbage_is_read_or_refused_and_nothing_else() -> None:
    chance = random.Random(0)
    words = ["lr", "<", "=", "(", ")", "and", "or", "not", "'", '"', "1e-3", "val/x", "~", "!=", " ", "\n", "é", "\0"]
    refused = 0
    for _ in range(3000):
        text = "".join(chance.choice(words) for _ in range(chance.randrange(1, 12)))
        try:
            parse(text).holds(RUN.get)
        except InputError:
            refused += 1
    assert 2000 < refused < 3000
