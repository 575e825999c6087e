from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import pytest
import yaml

from experiments.core.errors import InputError
from experiments.sweep.space import (
    Choice,
    Interval,
    Space,
    combine_group_options,
    count_points,
    fix_key,
    grid_points,
    is_conditional,
    join_values,
    list_keys,
    replace_values,
    sample_points,
    set_dimension,
    to_yaml,
)
from experiments.sweep.space_parser import parse

GROUPS: Mapping[str, list[str]] = {
    "optimizer": ["adam", "adamw", "sgd"], "model": ["deep/two", "lenet", "mlp"], "schedule": ["constant", "cosine"],
}  # fmt: skip
CONDITIONAL = {
    "optimizer": {
        "sgd": {"optimizer.lr": [0.1, 1.0], "optimizer.nesterov": {True: {"optimizer.momentum": [0.9]}, False: {}}},
        "adamw": {"optimizer.lr": [0.001]},
        "adam": None,
    },
    "max_steps": "5,7",
}


def find_problems(node: Mapping[str, Any]) -> list[str]:
    with pytest.raises(InputError) as err:
        parse(node, GROUPS)
    return err.value.problems


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("0.1,1e-3", Choice((0.1, 0.001))),
        ("choice(1,true,'1',word)", Choice((1, True, "1", "word"))),
        ("[8,16],[32]", Choice(([8, 16], [32]))),
        ("'x,y',{a: 1}", Choice(("x,y", {"a": 1}))),
        ("null,3", Choice((None, 3))),
        ("word", Choice(("word",))),
        ("int(choice(1.5,2.5))", Choice((1, 2))),
        ("str(choice(1,2))", Choice(("1", "2"))),
        ("sort(choice(3,1,2))", Choice((1, 2, 3))),
        ("range(1,10,2)", Interval(1, 9, is_integer=True, step=2)),
        ("range(4)", Interval(0, 3, is_integer=True, step=1)),
        ("range(0,1,0.25)", Interval(0.0, 0.75, step=0.25)),
        ("range(0,0.3,0.1)", Interval(0.0, 0.2, step=0.1)),
        ("float(range(1,4))", Interval(1.0, 3.0, step=1.0)),
        ("range(3,0,-1)", Choice((3, 2, 1))),
        ("sort(range(1,4),reverse=true)", Choice((3, 2, 1))),
        ("range(5,6)", Choice((5,))),
        ("interval(1,8)", Interval(1.0, 8.0)),
        ("int(interval(1,8))", Interval(1, 8, is_integer=True)),
        ("tag(log,interval(1e-5,1e-1))", Interval(1e-5, 1e-1, log=True)),
        ("tag(log, int(interval(1, 1000)))", Interval(1, 1000, log=True, is_integer=True)),
        ("int(tag(log,interval(1,1000)))", Interval(1, 1000, log=True, is_integer=True)),
    ],
)
def test_sweep_grammar_is_that_of_hydra(text: str, part: Choice | Interval) -> None:
    dimension = parse({"some.key": text}, GROUPS)["some.key"]
    assert dimension == part
    assert repr(dimension) == repr(part)  # 1, 1.0 and true are equal but not identical


def test_yaml_lists_maps_and_single_values_are_dimensions() -> None:
    integers = {"low": 2, "high": 9, "integer": True, "step": 3}
    space = parse({"a": [0.1, "x"], "b": 3, "c": {"low": 1, "high": 2, "log": True}, "d": integers})
    assert space["a"] == Choice((0.1, "x"))
    assert space["b"] == Choice((3,))
    assert repr(space["c"]) == repr(Interval(1.0, 2.0, log=True))
    assert repr(space["d"]) == repr(Interval(2, 8, is_integer=True, step=3))


def test_glob_selects_options_of_a_group() -> None:
    assert parse({"optimizer": "glob(*)"}, GROUPS)["optimizer"] == Choice(("adam", "adamw", "sgd"))
    assert parse({"optimizer": "glob(a*,exclude=adamw)"}, GROUPS)["optimizer"] == Choice(("adam",))


def test_shuffle_is_deterministic() -> None:
    part = parse({"a": "shuffle(range(20))"})["a"]
    assert isinstance(part, Choice)
    assert part == parse({"a": "shuffle(range(20))"})["a"]
    assert list(part.options) != list(range(20))
    assert sorted(part.options) == list(range(20))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("interval(1", "does not parse (no viable alternative at input 'interval(1'); write it like interval(0, 1)"),
        ("interval(1)", "does not parse (missing a required argument: 'end'); write it like interval(0, 1)"),
        ("inteval(1,2)", "there is no 'inteval' in the sweep grammar; did you mean 'interval' or 'int'?"),
        ("interval(2,1)", "is empty; write the smaller bound first"),
        ("interval(1,inf)", "has a bound that is not finite"),
        ("tag(log,interval(0,1))", "has a lower bound without a logarithm"),
        ("tag(log,choice(1,2))", "only an interval can have the tag log"),
        ("tag(quick,interval(1,2))", "there is no tag 'quick'"),
        ("range(5,1)", "has no values"),
        ("range(1,5,0)", "never ends"),
        ("range(100000,0,-1)", "has 100000 values in descending or random order"),
        ("1,2,1", "has 1 twice"),
        ("glob(*)", "glob selects options of a group, and 'some.key' is not a group"),
        ("str(interval(1,2))", "Intervals cannot be cast to str"),
        ([], "is an empty choice"),
        (None, "has no values"),
        ({"low": 1, "high": 2, "whole": True}, "an interval has no key 'whole'; it is now called 'integer'"),
        ({"low": 1, "hgih": 2}, "an interval has no key 'hgih'; did you mean 'high'?"),
        ({"low": 1, "high": "2"}, "high of an interval must be a number, not '2'"),
        ({"low": None, "high": 2}, "low of an interval must be a number, not None"),
        ({"low": 1, "high": 2, "step": 0}, "needs a step above 0"),
        ({"low": 1.5, "high": 2, "integer": True}, "has integer values"),
        ({"a": 3}, "the keys of some.key=a are not a map"),
    ],
)
def test_invalid_dimension_is_reported_with_a_fix(text: Any, message: str) -> None:
    problem = find_problems({"some.key": text})[0]
    assert message in problem
    assert problem.startswith("some.key=")
    assert ";" in problem or problem.endswith("?")


def test_all_problems_of_a_space_are_reported_together() -> None:
    node = {"optimizer": "sgd,adm", "a": "1,1", "sweep.num_seeds": [1, 2], "b": {"x": {"c": "interval(2,1)"}}}
    assert len(find_problems(node)) == 4


def test_key_occurs_once_in_a_point() -> None:
    assert find_problems({"optimizer": {"sgd": {"seed": [1, 2]}}, "seed": [3, 4]}) == [
        "seed is in the space more than once for the same point; remove one"
    ]
    assert find_problems({"a": {"x": {"c": [1, 2]}}, "b": {"y": {"c": [1, 2]}}}) == [
        "c is in the space more than once for the same point; remove one"
    ]
    assert "model.kw.a is a part of model.kw" in find_problems({"model.kw": [{"a": 1}], "model.kw.a": [1, 2]})[0]
    parse({"optimizer": "sgd,adam", "optimizer.lr": "1,2"}, GROUPS)
    parse(CONDITIONAL, GROUPS)


def test_points_are_the_grid_and_options_have_their_own_keys() -> None:
    space = parse(CONDITIONAL, GROUPS)
    points = list(grid_points(space))
    assert len(points) == count_points(space) == 2 * (2 * 2 + 1 + 1)
    assert points[0] == {
        "optimizer": "sgd", "optimizer.lr": 0.1, "optimizer.nesterov": True, "optimizer.momentum": 0.9, "max_steps": 5,
    }  # fmt: skip
    assert points[1] == {**points[0], "max_steps": 7}
    assert points[2] == {"optimizer": "sgd", "optimizer.lr": 0.1, "optimizer.nesterov": False, "max_steps": 5}
    assert points[-1] == {"optimizer": "adam", "max_steps": 7}
    assert len({repr(point) for point in points}) == len(points)
    assert list(grid_points({})) == [{}]


def test_values_of_a_range_are_rounded_decimals() -> None:
    assert list(grid_points(parse({"a": "range(0,0.7,0.1)"}))) == [
        {"a": v} for v in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    ]
    assert list(grid_points(parse({"a": "int(interval(2,4))"}))) == [{"a": 2}, {"a": 3}, {"a": 4}]


def test_long_range_is_not_expanded() -> None:
    space = parse({"a": "range(0,1000000000)", "b": "1,2"})
    assert count_points(space) == 2 * 10**9
    assert list(islice(grid_points(space), 3)) == [{"a": 0, "b": 1}, {"a": 0, "b": 2}, {"a": 1, "b": 1}]


def test_grid_refuses_continuous_dimensions() -> None:
    space = parse({"a": "interval(0,1)", "b": {"x": {"c": "tag(log,interval(1e-3,1))"}}, "d": "1,2"})
    assert count_points(space) is None
    with pytest.raises(InputError) as err:
        grid_points(space)
    assert len(err.value.problems) == 2
    assert "sweep.strategy=random" in err.value.problems[0]


def test_combinations_of_options_are_sorted_by_number_of_groups() -> None:
    node = {
        "data.folds": {2: {"schedule": "constant,cosine"}, 3: {}},
        "model": {"mlp": {"optimizer": "sgd,adam"}, "lenet": {}},
        "optimizer.lr": "1,2",
    }
    combinations = combine_group_options(parse(node, GROUPS), GROUPS)
    assert len(combinations) == 3 * 3
    assert combinations[0] == {"schedule": "constant", "model": "mlp", "optimizer": "sgd"}
    assert combinations[-1] == {"model": "lenet"}
    assert [len(one) for one in combinations] == sorted((len(one) for one in combinations), reverse=True)
    assert combine_group_options({}, GROUPS) == [{}]
    point_groups = {
        tuple(sorted((k, v) for k, v in p.items() if k in GROUPS)) for p in grid_points(parse(node, GROUPS))
    }
    assert point_groups == {tuple(sorted(one.items())) for one in combinations}


def test_samples_show_every_option_and_both_ends() -> None:
    space = parse({**CONDITIONAL, "a": "interval(0,1)", "b": {"x": {"c": "int(interval(1,9))"}, "y": {}}}, GROUPS)
    seen = {(key, repr(value)) for point in sample_points(space) for key, value in point.items()}
    for key, value in [("optimizer", "adam"), ("optimizer.momentum", 0.9), ("optimizer.lr", 0.1), ("optimizer.lr", 1.0),
                       ("a", 0.0), ("a", 1.0), ("c", 1), ("c", 9), ("b", "y")]:  # fmt: skip
        assert (key, repr(value)) in seen
    assert len(list(sample_points(space))) < 30


def test_frozen_space_reads_the_same_without_groups() -> None:
    space = parse({**CONDITIONAL, "a": "tag(log,interval(1e-3,1))", "b": "range(1,9,2)", "c": "[1],[2,x]"}, GROUPS)
    frozen = yaml.safe_load(yaml.safe_dump(to_yaml(space), sort_keys=False))
    again = parse(frozen)
    assert repr(again) == repr(space)
    assert list_keys(again) == list_keys(space)
    assert is_conditional(again)
    assert not is_conditional(parse({"a": "1,2"}))


def test_override_replaces_a_dimension_in_its_position() -> None:
    space = parse(CONDITIONAL, GROUPS)
    changed = set_dimension(space, "optimizer.lr", Choice((7, 8)), replace_values)
    optimizer = changed["optimizer"]
    assert isinstance(optimizer, Choice)
    assert [inner["optimizer.lr"] for inner in optimizer.inside.values()] == [Choice((7, 8)), Choice((7, 8))]
    fewer = set_dimension(space, "optimizer", Choice(("sgd", "adam")), replace_values)["optimizer"]
    assert isinstance(fewer, Choice)
    assert (fewer.options, list(fewer.inside)) == (("sgd", "adam"), ["sgd"])
    assert list(set_dimension(space, "seed", Choice((1, 2)), replace_values)) == ["optimizer", "max_steps", "seed"]


def test_fixing_a_key_keeps_the_keys_of_its_option() -> None:
    space = parse(CONDITIONAL, GROUPS)
    assert list(fix_key(space, "optimizer", "sgd")) == ["optimizer.lr", "optimizer.nesterov", "max_steps"]
    assert list(fix_key(space, "optimizer", "adam")) == ["max_steps"]
    assert list(fix_key(space, "max_steps", 3)) == ["optimizer"]
    assert fix_key(space, "unknown", 3) == space


def test_joined_values_keep_their_order_without_duplicates() -> None:
    assert join_values(Choice((1, 2)), Choice((2, 3))) == Choice((1, 2, 3))
    assert join_values(Interval(1, 3, is_integer=True, step=1), Choice((9,))) == Choice((1, 2, 3, 9))
    assert join_values(Interval(0.0, 1.0), Interval(0.0, 2.0)) == Interval(0.0, 2.0)
    old: Space = {"c": Choice((1,))}
    assert join_values(Choice(("a", "b"), {"a": old}), Choice(("d",))) == Choice(("a", "b", "d"), {"a": old})
