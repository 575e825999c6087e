"""Tests of the SLURM rules; `tests/bad_inputs/slurm.txt` has their messages."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from experiments.config.compose import compose
from experiments.config.options import groups
from experiments.config.rules import slurm as site
from experiments.config.rules.all_rules import find_problems


def config(**changes: Any) -> dict[str, Any]:
    """A composed configuration for the GPUs of a SLURM cluster, with values set by dotted key."""
    found = compose(["hardware=h100_8", "parallel=data", "launcher=slurm"]).config
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = found
        for name in parents:
            node = node[name]
        node[last] = value
    return found


@pytest.mark.parametrize(
    ("time", "length"),
    [
        ("04:00:00", 14_400), ("0:02:05", 125), ("100:00:00", 360_000), ("1-02:00:01", 93_601), ("00:00:00", 0),
        ("30", None), ("30:00", None), ("1-02", None), ("04:60:00", None), ("4h", None), ("", None), ("UNLIMITED", None),
    ],
)  # fmt: skip
def test_only_unambiguous_time_limits_are_read(time: str, length: int | None) -> None:
    assert site.seconds(time) == length


def test_max_device_hours_of_a_submission() -> None:
    assert site.max_device_h(workers=3, nodes=2, devices_per_node=8, time="1-06:00:00") == 3 * 2 * 8 * 30
    assert site.max_device_h(1, 1, 1, "00:03:00") == pytest.approx(0.05)


@pytest.mark.parametrize(
    "gres",
    [
        "gpu:8",
        "gpu:h100:8",
        "gpu:nvidia_h100_80gb_hbm3:9",
        "gpu:1g.5gb:8",
        "craynetwork:1,gpu:h100:8",
        "gpu:a:4,gpu:b:4",
    ],
)
def test_gres_with_enough_gpus_is_accepted(gres: str) -> None:
    assert find_problems(config(hardware__slurm__gpu_type=None, hardware__slurm__gres=gres)) == []


@pytest.mark.parametrize(
    "gres", ["gpu", "gpu:h100", "gpu:7", "gpu:h100:7", "gpu:1g.5gb:7", "gpu:a:4,gpu:b:3", "licence:8"]
)
def test_gres_with_too_few_gpus_is_refused(gres: str) -> None:
    (problem,) = find_problems(config(hardware__slurm__gpu_type=None, hardware__slurm__gres=gres))
    assert problem.startswith(f"hardware.slurm.gres={gres} requests ")


def test_a_cpu_trial_accepts_any_gres() -> None:
    changes = {"hardware__slurm__gpu_type": None, "hardware__slurm__gres": "gpu:1", "hardware__device": "cpu"}
    assert find_problems(config(**changes)) == []


def test_rules_skip_values_with_their_own_error() -> None:
    wrong = {"hardware__slurm__time": 45045, "hardware__slurm__sbatch": 3, "launcher__devices_per_trial": "two"}
    assert find_problems(config(**wrong)) == []
    assert find_problems(config(hardware__slurm__gres=5)) == []
    assert find_problems({}) == []


def test_slurm_rules_can_be_checked_alone() -> None:
    (problem,) = site.find_problems(config(launcher__devices_per_trial=3))
    assert "does not divide hardware.devices_per_node=8" in problem


def test_a_variable_that_workers_get_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SITE_A", raising=False)
    monkeypatch.setenv("SITE_B", "3")
    known = {
        "data__root": "${oc.env:HOME}/${oc.env:LATHE_X}",
        "launcher__environment": ["SITE_B"],
        "data_root": "${oc.env:SITE_B}",
    }
    assert find_problems(config(**known)) == []
    assert (
        find_problems(config(data_root="${oc.env:SITE_A,data}")) == []
    )  # nobody sees it, so everybody takes the default
    (problems,) = find_problems(config(data_root="${oc.env:SITE_B,data}"))
    assert "does not pass on SITE_B, which data_root needs" in problems


@pytest.mark.parametrize(
    "option", [option for option, path in groups()["hardware"].items() if "time:" in path.read_text()]
)
def test_a_built_in_slurm_option_follows_the_rules_and_says_that_it_is_a_placeholder(option: str) -> None:
    path = groups()["hardware"][option]
    slurm = yaml.safe_load(path.read_text())["slurm"]
    assert isinstance(slurm["time"], str), "quoted, or YAML may make a number of it"
    assert find_problems(compose([f"hardware={option}", "launcher=slurm", "parallel=data"]).config) == []
    assert "placeholders" in path.read_text() or option == "local_cluster"
