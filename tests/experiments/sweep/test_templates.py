"""Points filled into frozen configurations: the same as composing anew, only faster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.config.compose import compose
from experiments.core.errors import PlanError
from experiments.sweep.templates import Template, Templates, format_override
from experiments.trial.trial import trial_id

BASE = ["model=mlp", "data=digits", "max_steps=20"]


def templates(*overrides: str, choices: dict[str, str] | None = None) -> Templates:
    return Templates([Template.from_experiment(compose([*BASE, *overrides]), choices or {}, {})])


@pytest.mark.parametrize(
    "values",
    [
        {"optimizer.lr": 0.25},
        {"optimizer.lr": 1},
        {"model.hidden_sizes": [3, 5]},
        {"data.num_classes": 7, "batch_size_global": 32},
        {"model.num_classes": 11, "data.num_classes": 7},
        {"checkpoint.keep_last": 2, "name": "it's"},
        {"grad_clip_norm": None},
        {"data_root": "/somewhere"},
    ],
    ids=str,
)
def test_a_point_is_what_composing_it_would_give(values: dict[str, Any]) -> None:
    config, overrides = templates().fill(values, 3)
    again = compose(overrides)
    assert config == {**again.config, "resume": False}
    assert config["seed"] == 3
    assert trial_id(config) == trial_id(again.config)


def test_what_follows_a_key_changes_with_it() -> None:
    config, _ = templates().fill({"data.num_classes": 7}, 0)
    assert config["model"]["num_classes"] == 7


def test_a_choice_of_a_group_takes_the_template_composed_with_it() -> None:
    both = Templates(
        [
            Template.from_experiment(compose([*BASE, f"optimizer={name}"]), {"optimizer": name}, {})
            for name in ("sgd", "adamw")
        ]
    )
    config, overrides = both.fill({"optimizer": "sgd", "optimizer.momentum": 0.5}, 0)
    assert config["optimizer"]["_target_"].endswith("SGD")
    assert config == {**compose(overrides).config, "resume": False}


def test_every_problem_of_a_point_is_told_with_the_value_as_it_was_given() -> None:
    with pytest.raises(PlanError) as caught:
        templates().fill({"batch_size_global": 0, "optimizer.lrr": 0.1, "model.dropout_prob": "much"}, 0)
    text = str(caught.value)
    assert "the point batch_size_global=0" in text
    assert "optimizer.lrr=0.1: AdamW has no argument 'lrr'; did you mean 'lr'?" in text
    assert "model.dropout_prob=much is not a number" in text
    assert "batch_size_global=0 is not more than 0" in text


def test_they_come_back_from_the_disk_as_they_were(tmp_path: Path) -> None:
    found = templates("optimizer.lr=0.5")
    found.save(tmp_path)
    again = Templates.load(tmp_path, (), ())
    assert again.fill({"seed": 4}, 1) == found.fill({"seed": 4}, 1)


@pytest.mark.parametrize("value", [0.1, True, None, "word", "two words", "a,b", [1, 2], [0.9, 0.999], "true", "3"])
def test_a_value_is_written_as_an_override_that_gives_it_back(value: Any) -> None:
    typed = format_override("description", value)
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert OverridesParser.create().parse_override(typed).value() == value
