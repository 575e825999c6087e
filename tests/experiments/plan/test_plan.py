from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.config.compose import compose
from experiments.config.rules.all_rules import find_problems
from experiments.core.errors import PlanError
from experiments.plan.plan import Plan, make_plan
from modules.parallel.topology import Topology
from tests.support.waiting import PATIENCE_S


def plan(*overrides: str) -> Plan:
    return make_plan(compose(list(overrides)).config)


def find_plan_problems(*overrides: str) -> list[str]:
    with pytest.raises(PlanError) as error:
        plan(*overrides)
    return error.value.problems


def test_every_number_is_derived_once() -> None:
    assert plan("name=x", "batch_size_global=60", "batch_size_per_device=12", "max_steps=250") == Plan(
        name="x",
        topology=Topology(),
        batch_size_global=60,
        batch_size_per_device=12,
        num_accumulation=5,
        num_train=1297,
        steps_per_epoch=21,
        num_steps=250,
        num_evaluations=3,
        num_checkpoints=3,
    )


def test_epochs_count_the_steps_that_fill_a_batch() -> None:
    derived = plan("max_steps=null", "max_epochs=3", "batch_size_global=100")
    assert (derived.steps_per_epoch, derived.num_steps, derived.batch_size_per_device) == (12, 36, 100)


def test_several_devices_share_the_batch() -> None:
    config = compose(["batch_size_global=96", "batch_size_per_device=4", "hardware.devices_per_node=3"]).config
    config["hardware"]["nodes"] = 2
    config["parallel"] = {"_target_": "modules.parallel.data.DataParallel", "data": "auto"}
    derived = make_plan(config)
    assert (derived.topology.world, derived.num_accumulation) == (6, 4)


def test_all_values_out_of_range_are_reported_together() -> None:
    messages = find_plan_problems(
        "max_steps=-1", "batch_size_eval=-1", "seed=-3", "hardware.mfu=2", "num_data_workers=-1"
    )
    assert len(messages) == 5
    assert "max_steps=-1 is not 0 or more; write a larger number" in messages
    assert "seed=-3 is not 0 or more; write a larger number" in messages


def test_a_batch_problem_is_reported_with_values_out_of_range() -> None:
    messages = find_plan_problems("seed=-1", "max_steps=-2", "batch_size_global=65", "batch_size_per_device=7")
    assert len(messages) == 3
    assert messages[2].endswith("try 5 or 13")


def test_broken_values_are_skipped() -> None:
    config: dict[str, Any] = compose(["batch_size_per_device=7", "schedule.warmup_steps=301"]).config
    assert len(find_problems(config)) == 2
    assert len(find_problems(config, reported=["batch_size_per_device"])) == 1
    for key in list(config):
        for broken in (object(), [1], {"a": {}}, "text", True, 1.5, None):
            find_problems({**config, key: broken})
        find_problems({name: value for name, value in config.items() if name != key})
    assert find_problems({}) == []


def test_the_nearest_divisors_of_a_huge_batch_are_found_quickly() -> None:
    config = compose([]).config | {"batch_size_global": 10**17, "batch_size_per_device": 7 * 10**9}
    config["data"]["num_train"] = None
    [messages] = find_problems(config)
    assert messages.endswith(f"try 1 or {10**17}")  # none within reach
    assert find_problems(config | {"batch_size_per_device": 7})[0].endswith("try 5 or 8")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["batch_size_per_device=7"], "batch_size_per_device=7 does not divide batch_size_global=64; try 4 or 8"),
        (["batch_size_global=1298"], "batch_size_global=1298 is more than the 1297 training examples; lower it"),
        (["max_epochs=2"], "max_steps=300 and max_epochs=2: exactly one of them must be set; write `max_steps=null"),
        (["max_steps=null"], "max_steps=null and max_epochs=null|max_steps=None and max_epochs=None"),
        (["schedule=cosine", "schedule.warmup_steps=301"], "schedule.warmup_steps=301 is longer than max_steps=300"),
        (["hardware.devices_per_node=2"], "but parallel=single uses one; set both to 1"),
        (
            ["checkpoint.best_metric=train/loss_nats"],
            "is not a metric of the evaluation; write for example val/loss_nats",
        ),
        (
            ["data=imagenet", "data.root=/nowhere"],
            "there is no folder /nowhere/imagenet; put the files there or point",
        ),
        (["data=mnist", "data.root=/nowhere"], "are not in /nowhere/mnist; put the files there or point LATHE_DATA"),
    ],
)
def test_a_configuration_that_cannot_run_gets_a_hint(overrides: list[str], message: str) -> None:
    assert re.search(message, "\n".join(find_plan_problems(*overrides)))


def test_a_batch_that_cannot_be_split_gets_the_nearest_sizes() -> None:
    config = compose(["batch_size_global=100"]).config
    config["hardware"]["devices_per_node"] = 8
    config["parallel"] = {"_target_": "modules.parallel.data.DataParallel", "data": "auto"}
    with pytest.raises(PlanError, match="cannot be split over 8 devices; try 96 or 104"):
        make_plan(config)


def test_epochs_need_the_number_of_examples() -> None:
    config: dict[str, Any] = compose(["max_steps=null", "max_epochs=2"]).config
    config["data"]["num_train"] = None
    with pytest.raises(PlanError, match=r"max_epochs=2 needs data\.num_train"):
        make_plan(config)


def test_planning_imports_no_torch(tmp_path: Path) -> None:
    code = "import sys, experiments.plan.plan, experiments.launch.run_trial, experiments.trial.trial; "
    code += "sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, timeout=PATIENCE_S, check=False).returncode
        == 0
    )
