from __future__ import annotations

from typing import Any

import pytest

from experiments.components.weight_names import map_names, propose


@pytest.mark.parametrize(
    ("init_from", "renamed"),
    [
        ({}, ["bert.layer.0.gamma", "bert.layers", "head.bias"]),
        ({"prefix": "model"}, ["model.bert.layer.0.gamma", "model.bert.layers", "model.head.bias"]),
        ({"rename": {"bert": ""}}, ["layer.0.gamma", "layers", "head.bias"]),
        ({"rename": {"bert.layer": "block"}}, ["block.0.gamma", "bert.layers", "head.bias"]),
        ({"rename": {"head": "top"}, "prefix": "net"}, ["net.bert.layer.0.gamma", "net.bert.layers", "net.top.bias"]),
        ({"rename": {"bert.*.gamma": "*.weight"}}, ["layer.0.weight", "bert.layers", "head.bias"]),
        ({"rename": {"*.gamma": "*.weight", "*": "rest.*"}}, ["bert.layer.0.weight", "rest.bert.layers", "rest.head.bias"]),
    ],
)  # fmt: skip
def test_names_get_new_beginnings_at_whole_parts(init_from: dict[str, Any], renamed: list[str]) -> None:
    names = ["bert.layer.0.gamma", "bert.layers", "head.bias"]
    mapped, problems = map_names(names, init_from)
    assert (problems, mapped) == ([], dict(zip(renamed, names, strict=True)))


def test_a_rename_without_effect_or_with_a_collision_is_reported() -> None:
    _, problems = map_names(["a.bias", "b.bias"], {"rename": {"b": "a", "c": "d"}})
    assert problems == [
        "init_from.rename: no weight in the file begins with 'c'; known: a, a.bias, b, b.bias",
        "init_from.rename makes a.bias of a.bias and of b.bias; rename one of them",
    ]


MODEL = {"net.emb.weight": [5, 3], "net.out.weight": [2, 3], "net.out.bias": [2], "head.bias": [7]}


@pytest.mark.parametrize(
    ("strip", "add", "proposal"),
    [
        ("net.", "", ("set init_from.prefix=net", 3)),
        ("net.", "bert.", ("set 'init_from.rename={bert: net}'", 3)),
        ("", "module.", ("set 'init_from.rename={module: ''}'", 4)),
        ("", "", ("remove init_from.prefix and init_from.rename", 4)),
    ],
)
def test_the_change_with_which_most_names_match_is_proposed(strip: str, add: str, proposal: tuple[str, int]) -> None:
    saved = {add + name.removeprefix(strip): shape for name, shape in MODEL.items()}
    assert propose(saved, MODEL) == proposal


def test_nothing_is_proposed_where_few_weights_would_match() -> None:
    assert propose({"a.bias": [7], "b.weight": [1], "c.weight": [4]}, MODEL)[1] == 0
