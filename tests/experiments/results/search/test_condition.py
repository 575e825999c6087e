"""The conditions that runs are searched by: what they mean, and what is said where they are wrong."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import pytest

from experiments.core.errors import InputError
from experiments.results.search.condition import MAX_NESTING, comparisons, parse

RUN: dict[str, Any] = {
    "optimizer.lr": 0.003,
    "model": "lenet",
    "model.sizes": [64, 32],
    "model.map": {"a": 1},
    "val/F1 (macro)": 0.5,
    "val/a=b": 1.0,
    "val/it's": 1.0,
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
        ("model>1", False),  # text has no order with a number
        ("model.sizes=[64,32]", True),
        ("model.sizes~32", True),
        ('model.sizes="[64, 32]"', True),  # as `lathe status` prints it
        ("model.sizes = '[ 64,32 ]'", True),
        ('model.sizes!="[64, 32]"', False),
        ('model.sizes="[32, 64]"', False),
        ('model.sizes="[64, 32"', False),
        ('model.sizes~"64, 32"', True),
        ('model.map="{a: 1}" or model.map=\'{"a": 1}\'', True),
        ('"val/F1 (macro)">0', True),
        ("'val/F1 (macro)'>=0.5 and \"optimizer.lr\"=0.003", True),
        ('not "val/a=b">1 and "val/it\'s"=1', True),
        ('"created">2026-11-24', True),
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
        ("model=and", False),  # `and` in place of a value is text
    ],
)
def test_a_condition_holds_or_not(text: str, expected: bool) -> None:
    assert holds(text) is expected


@pytest.mark.parametrize(
    ("text", "message", "at"),
    [
        ("optimizer.lr<", "a value is missing after optimizer.lr<", 13),
        ("optimizer.lr", "an operator is missing after optimizer.lr", 12),
        ("<3", "a key is missing here", 0),
        ("lr<abc", "abc is not a number, but < compares numbers", 3),
        ("(lr<3", "a parenthesis is not closed", 5),
        ("lr<3)", "')' does not belong to a comparison", 4),
        ("lr<3 seed=1", "'seed' does not belong to a comparison", 5),
        ("lr<3 and", "a key is missing here", 8),
        ("lr<3 and or seed=1", "a key is missing here", 9),
        ("name='open", '"\'" starts a value that does not end', 5),
        ("lr!3", "'!' starts a value that does not end", 2),
        ("created>yesterday", "yesterday is not a date; write one such as 2026-11-24", 8),
        ("lr = = 3", "a value is missing after lr=", 5),
        ("not " * (MAX_NESTING + 1) + "lr=1", f"nested more than {MAX_NESTING} levels deep", 4 * MAX_NESTING),
        ("(" * 100_000, f"nested more than {MAX_NESTING} levels deep", MAX_NESTING),
    ],
)
def test_an_error_is_reported_with_its_position(text: str, message: str, at: int) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    line, shown, mark = caught.value.problems[0].splitlines()
    assert message in line
    assert shown.strip() == " ".join(text.split("\n")).strip()
    assert mark.index("^") - (len(shown) - len(shown.lstrip())) == at


def test_comparisons_come_from_left_to_right() -> None:
    every = comparisons(parse("a=1 and (b<2 or not c~x) and d!=y"))
    assert [(one.key, one.op, one.value, one.at) for one in every] == [
        ("a", "=", "1", 0), ("b", "<", "2", 9), ("c", "~", "x", 20), ("d", "!=", "y", 29),
    ]  # fmt: skip
