"""What a resume can change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.config.compose import compose
from experiments.core.errors import InputError
from experiments.trial.resume import compose_changes, find_changes
from experiments.trial.trial import Trial, freeze


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    overrides = ["model=mlp", "optimizer.lr=0.02", "parallel=pipeline_data", "hardware.devices_per_node=4"]
    overrides += ["parallel.pipe=2", "parallel.partition=uniform", "batch_size_per_device=8"]
    return freeze(compose([f"runs_dir={tmp_path}/runs", *overrides]))


def test_without_overrides_nothing_changes(trial: Trial) -> None:
    assert compose_changes(trial, []) == {}
    assert trial.read_attempt_config(1) == trial.config


def test_a_changed_key_is_added_to_the_overrides_of_the_trial(trial: Trial) -> None:
    changed = compose_changes(trial, ["parallel.pipe=4", "parallel.data=1", "batch_size_per_device=2"])
    assert changed["parallel"]["_target_"] == "modules.parallel.deepspeed_pipeline.Pipeline"
    assert (changed["parallel"]["pipe"], changed["parallel"]["data"], changed["batch_size_per_device"]) == (4, 1, 2)
    assert changed.keys() == {"parallel", "batch_size_per_device"}


def test_a_new_option_replaces_its_group(trial: Trial) -> None:
    changed = compose_changes(trial, ["parallel=zero3", "hardware.devices_per_node=2"])
    assert changed["parallel"]["stage"] == 3
    assert changed["batch_size_per_device"] is None
    again = compose_changes(trial, ["parallel=pipeline", "parallel.pipe=2", "batch_size_per_device=4"])
    assert (again["parallel"]["data"], again["batch_size_per_device"]) == (1, 4)
    assert changed["hardware"]["devices_per_node"] == 2


def test_an_attempt_keeps_what_it_changed(trial: Trial) -> None:
    folder = trial.folder / "attempts" / "2"
    folder.mkdir(parents=True)
    (folder / "changed.yaml").write_text(yaml.safe_dump({"batch_size_per_device": 3}))
    assert trial.read_attempt_config(2) == {**trial.config, "batch_size_per_device": 3}
    assert trial.read_attempt_config(1) == trial.config


@pytest.mark.parametrize("override", ["optimizer.lr=1", "model=lenet", "~seed", "+tags.a=b", "max_steps=9"])
def test_a_change_of_the_result_is_refused(trial: Trial, override: str) -> None:
    with pytest.raises(InputError, match=r"a resume changes only parallel, hardware, .* start a new run with"):
        compose_changes(trial, [override])


def test_a_misspelt_override_is_reported(trial: Trial) -> None:
    with pytest.raises(InputError, match=r"parallel\.pip=2: Pipeline has no argument 'pip'; did you mean 'pipe'"):
        compose_changes(trial, ["+parallel.pip=2"])


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("stop_timeout_s=90", {"stop_timeout_s": 90.0}),
        ("system_every_s=null", {"system_every_s": None}),
        ("profile=true", {"profile": True}),
        ("num_data_workers=2", {"num_data_workers": 2}),
    ],
)
def test_a_key_that_no_update_depends_on_can_be_changed(trial: Trial, override: str, changed: dict[str, Any]) -> None:
    assert compose_changes(trial, [override]) == changed
    assert find_changes(trial, {**trial.config, **changed}) == changed  # `lathe run ... resume=true`
    assert find_changes(trial, trial.config) == {}


def test_only_the_number_of_checkpoints_can_be_changed_and_the_place_of_the_data(trial: Trial) -> None:
    assert compose_changes(trial, ["checkpoint.keep_last=3"]) == {
        "checkpoint": {**trial.config["checkpoint"], "keep_last": 3}
    }
    with pytest.raises(InputError, match=r"checkpoint\.every_steps: a resume changes only"):
        compose_changes(trial, ["checkpoint.every_steps=3"])
    moved = Trial(trial.folder)
    moved.config["data"]["root"] = "/old"
    assert compose_changes(moved, ["data_root=/new"]) == {
        "data_root": "/new",
        "data": {**trial.config["data"], "root": "/new"},
    }
