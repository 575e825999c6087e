"""Templates give the same configurations as composing, but faster."""

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
def test_filled_point_equals_the_composed_configuration(values: dict[str, Any]) -> None:
    config, overrides = templates().fill(values, 3)
    again = compose(overrides)
    assert config == {**again.config, "resume": False}
    assert config["seed"] == 3
    assert trial_id(config) == trial_id(again.config)


def test_interpolated_key_changes_with_its_source() -> None:
    config, _ = templates().fill({"data.num_classes": 7}, 0)
    assert config["model"]["num_classes"] == 7


def test_group_option_selects_its_template() -> None:
    both = Templates(
        [
            Template.from_experiment(compose([*BASE, f"optimizer={name}"]), {"optimizer": name}, {})
            for name in ("sgd", "adamw")
        ]
    )
    config, overrides = both.fill({"optimizer": "sgd", "optimizer.momentum": 0.5}, 0)
    assert config["optimizer"]["_target_"].endswith("SGD")
    assert config == {**compose(overrides).config, "resume": False}


def test_all_problems_of_a_point_are_reported_with_the_given_value() -> None:
    with pytest.raises(PlanError) as caught:
        templates().fill({"batch_size_global": 0, "optimizer.lrr": 0.1, "model.dropout_prob": "much"}, 0)
    text = str(caught.value)
    assert "the point batch_size_global=0" in text
    assert "optimizer.lrr=0.1: AdamW has no argument 'lrr'; did you mean 'lr'?" in text
    assert "model.dropout_prob=much is not a number" in text
    assert "batch_size_global=0 is not more than 0" in text


def test_templates_survive_a_round_trip_through_the_disk(tmp_path: Path) -> None:
    saved = templates("optimizer.lr=0.5")
    saved.save(tmp_path)
    again = Templates.load(tmp_path, (), ())
    assert again.fill({"seed": 4}, 1) == saved.fill({"seed": 4}, 1)


@pytest.mark.parametrize("value", [0.1, True, None, "word", "two words", "a,b", [1, 2], [0.9, 0.999], "true", "3"])
def test_formatted_override_parses_to_the_same_value(value: Any) -> None:
    override = format_override("description", value)
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert OverridesParser.create().parse_override(override).value() == value
