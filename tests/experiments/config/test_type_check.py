from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from experiments.config import type_check as check
from experiments.config.signature import Module

MODULE = Module("here", Path("here.py"), aliases={"Size": ast.parse("int | tuple[int, int]", mode="eval").body})


def parse(text: str) -> ast.expr | None:
    return ast.parse(text, mode="eval").body if text else None


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        ("int", 3), ("float", 3), ("float", 3.5), ("bool", True), ("str", ""), ("None", None), ("int | None", None),
        ("Optional[int]", None), ("Union[int, str]", "a"), ("typing.Optional[int]", 3), ("'int | None'", None),
        ("list[int]", []), ("list[int]", [3, 4]), ("Sequence[float]", [3, 4.5]), ("list", [3, "a"]), ("tuple", [3]),
        ("tuple[int, ...]", [3, 4, 5]), ("tuple[int, str]", [3, "a"]), ("list[tuple[int, int]]", [[3, 4]]),
        ("dict[str, int]", {"a": 3}), ("dict", {"a": []}), ("Mapping[str, Any]", {"a": [3]}), ("Any", object()),
        ("Literal['a', 3]", 3), ("Literal['a', 3]", "a"), ("Size", 3), ("Size", [3, 4]), ("Annotated[int, 'x']", 3),
        ("Tensor", 3), ("float | Tensor", 0.5), ("nn.Module", {"_target_": "a.B"}), ("int | nn.Module", {"_target_": "a.B"}),
        ("", {"a": 3}), ("int", check.UNKNOWN),
    ],
)  # fmt: skip
def test_a_matching_value_is_accepted(annotation: str, value: Any) -> None:
    assert check.mismatch(value, parse(annotation), MODULE) is None


@pytest.mark.parametrize(
    ("annotation", "value", "wanted"),
    [
        ("int", 3.5, "a whole number"), ("int", True, "a whole number"), ("int", "3", "a whole number"),
        ("float", True, "a number"), ("bool", 1, "true or false"), ("str", 3, "text"), ("str", None, "text"),
        ("int | None", "a", "a whole number or null"), ("Optional[str]", 3, "text or null"),
        ("list[int]", 3, "a list of whole numbers"), ("list[int]", ["a"], "a list of whole numbers"),
        ("list[float]", ["a"], "a list of numbers"), ("list[str]", [3], "a list of texts"), ("list[Size]", [0.5], "a list"),
        ("tuple[int, ...]", [0.5], "a list of whole numbers"), ("tuple[int, str]", [3], "a list of 2 (a whole number, text)"),
        ("Size", [3, 4, 5], "a whole number or a list of 2 (a whole number, a whole number)"),
        ("dict[str, int]", 3, "a map"), ("dict[str, int]", {"a": "b"}, "a map to a whole number"), ("dict", [3], "a map"),
        ("Literal['a', 3]", "b", "one of a, 3"), ("Literal[1]", True, "one of 1"), ("int | Tensor", "a", "a whole number"),
        ("int", {"_target_": "a.B"}, "a whole number"),
    ],
)  # fmt: skip
def test_a_mismatch_names_the_expected_type(annotation: str, value: Any, wanted: str) -> None:
    assert check.mismatch(value, parse(annotation), MODULE) == wanted


@pytest.mark.parametrize(
    ("annotation", "example"),
    [
        ("int", "10"), ("float | None", "0.1"), ("bool", "true"), ("str", "word"), ("list[int]", "[10]"),
        ("tuple[float, float]", "[0.1, 0.1]"), ("tuple[int, ...]", "[10]"), ("tuple[int, str]", "[10, word]"),
        ("Literal['max', 'min']", "max"), ("dict[str, str]", "{key: value}"), ("Tensor", "..."), ("", "..."),
    ],
)  # fmt: skip
def test_an_example_matches_its_type(annotation: str, example: str) -> None:
    assert check.example(parse(annotation), MODULE) == example


def test_a_type_has_a_text() -> None:
    assert check.wanted(parse("int | None"), MODULE) == "a whole number or null"
    assert check.wanted(parse("Tensor"), MODULE) is None
    assert check.wanted(None, MODULE) is None


def test_equal_values_have_one_canonical_form() -> None:
    value = check.canonical(1, parse("float"), MODULE)
    assert (value, type(value)) == (1.0, float)
    assert [type(item) for item in check.canonical([1, 0.5], parse("tuple[float, float]"), MODULE)] == [float, float]
    assert [type(item) for item in check.canonical([1, 2], parse("tuple[int, float]"), MODULE)] == [int, float]
    assert type(check.canonical(1, parse("int | float"), MODULE)) is int
    assert check.canonical(True, parse("float"), MODULE) is True
    assert check.canonical([1, 2, 3], parse("tuple[float, float]"), MODULE) == [1, 2, 3]  # told as a fault elsewhere
    assert check.canonical(None, parse("float | None"), MODULE) is None


def test_choices_come_from_literals_and_bools() -> None:
    assert check.choices(parse("Literal['max', 'min'] | None"), MODULE) == ["max", "min"]
    assert check.choices(parse("bool"), MODULE) == ["true", "false"]
    assert check.choices(parse("int"), MODULE) == []


def test_a_reference_to_the_environment_is_recognized() -> None:
    assert check.is_reference("${oc.env:HOME}/data")
    assert not check.is_reference("HOME")
    assert not check.is_reference(3)
