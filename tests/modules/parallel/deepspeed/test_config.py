"""The generated DeepSpeed configuration, and the check of extra keys."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
from deepspeed.runtime.config import DeepSpeedConfig

from modules.parallel.base import EngineConfig, Rank
from modules.parallel.deepspeed.config import check_extra, make_settings
from modules.parallel.topology import Topology

DEFAULTS: dict[str, Any] = {
    "stage": 2, "offload": "none", "batch_size_per_device": 3, "num_accumulation": 5, "grad_clip_norm": 0.7,
    "num_parameters": 1001, "extra": {},
}  # fmt: skip


def test_the_configuration_contains_the_settings_of_the_trial() -> None:
    config = make_settings(**DEFAULTS)
    assert config["train_micro_batch_size_per_gpu"] == 3
    assert config["gradient_accumulation_steps"] == 5
    assert config["gradient_clipping"] == 0.7
    assert config["zero_optimization"] == {"stage": 2, "reduce_bucket_size": 1008, "allgather_bucket_size": 1008}
    assert make_settings(**DEFAULTS | {"grad_clip_norm": None})["gradient_clipping"] == 0.0


@pytest.mark.parametrize(
    ("offload", "keys"),
    [
        ("none", set()),
        ("optimizer", {"offload_optimizer"}),
        ("weights_and_optimizer", {"offload_optimizer", "offload_param"}),
    ],
)
def test_offloading_sets_the_keys_of_offloaded_tensors(offload: str, keys: set[str]) -> None:
    zero = make_settings(**DEFAULTS | {"stage": 3, "offload": offload})["zero_optimization"]
    assert {name for name in zero if name.startswith("offload_")} == keys


def test_extra_keys_are_merged_with_generated_keys() -> None:
    extra = {"zero_optimization": {"overlap_comm": False, "reduce_bucket_size": 64}, "steps_per_print": 7}
    assert check_extra(extra) == []
    config = make_settings(**DEFAULTS | {"extra": extra})
    assert config["zero_optimization"] == {
        "stage": 2, "reduce_bucket_size": 64, "allgather_bucket_size": 1008, "overlap_comm": False,
    }  # fmt: skip
    assert config["steps_per_print"] == 7


def test_deepspeed_accepts_the_generated_configuration() -> None:
    for stage in range(4):
        accepted = DeepSpeedConfig(make_settings(**DEFAULTS | {"stage": stage}) | {"train_batch_size": 15})
        assert accepted.zero_optimization_stage == stage
        assert accepted.gradient_clipping == 0.7


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"zero_optimisation": {"stage": 3}}, "is not an allowed key; did you mean 'zero_optimization'?"),
        ({"zero_optimization": {"stage": 3}}, "deepspeed_extra.zero_optimization.stage=3 is set by parallel.stage"),
        (
            {"zero_optimization": {"overlap_com": True}},
            "overlap_com=true .* did you mean 'zero_optimization.overlap_comm'",
        ),
        ({"zero_optimization": True}, "zero_optimization=true is not a map; write one"),
        ({"gradient_clipping": 1.0}, "is set by grad_clip_norm; set that instead"),
        ({"fp16": {"enabled": True}}, "is set by precision"),
        (
            {"sequence_parallel_size": 2},
            "is not allowed: with it, ZeRO 0 to 2 silently ignore the gradients .* remove it",
        ),
        ({"elasticity": {}}, "does not have it, and Lathe can resume a run in any topology; remove it"),
        ({"steps_per_print": True}, "steps_per_print=true is not a whole number; write one"),
        ({"communication_data_type": "bf16"}, "is not an allowed key; "),
        ({"xyzzy": 1}, "is not an allowed key; use one of "),
    ],
)
def test_other_keys_and_values_are_refused(extra: dict[str, Any], message: str) -> None:
    (problem,) = check_extra(extra)
    assert problem.startswith("parallel.deepspeed_extra.")
    assert re.search(message, problem)


def test_all_problems_are_reported_together() -> None:
    assert len(check_extra({"amp": {}, "zero_optimization": {"stage": 1, "nothing": 2}, "steps_per_print": None})) == 4


def test_variables_of_another_launcher_do_not_reach_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    from modules.parallel.deepspeed.initialize import _set_variables

    foreign = {"OMPI_COMM_WORLD_LOCAL_RANK": "7", "OMPI_COMM_WORLD_SIZE": "9", "PMI_RANK": "7", "PMIX_RANK": "7",
               "MV2_COMM_WORLD_LOCAL_RANK": "7", "MPI_LOCALRANKID": "7", "I_MPI_INFO_NUMA_NODE_NUM": "1"}  # fmt: skip
    left_over = {"LOCAL_RANK": "7", "RANK": "7", "WORLD_SIZE": "9"}
    for name, value in {**foreign, **left_over}.items():
        monkeypatch.setenv(name, value)
    config = EngineConfig(
        num_steps=1, num_accumulation=1, grad_clip_norm=None, precision="fp32", compile=False, device="cpu",
        batch_size_per_device=1, topology=Topology(data=2), rank=Rank(1, 1, 2),
    )  # fmt: skip
    _set_variables(config)
    assert not {*foreign} & {*os.environ}
    assert {name: os.environ[name] for name in left_over} == {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2"}
