"""The configuration that DeepSpeed is given, and what may be passed on to it."""

from __future__ import annotations

from typing import Any

import pytest
from deepspeed.runtime.config import DeepSpeedConfig

from modules.parallel.deepspeed.config import check_extra, make_settings

PLAIN: dict[str, Any] = {
    "stage": 2, "offload": "none", "batch_size_per_device": 3, "num_accumulation": 5, "grad_clip_norm": 0.7,
    "num_parameters": 1001, "extra": {},
}  # fmt: skip


def test_a_configuration_says_what_the_trial_says() -> None:
    config = make_settings(**PLAIN)
    assert config["train_micro_batch_size_per_gpu"] == 3
    assert config["gradient_accumulation_steps"] == 5
    assert config["gradient_clipping"] == 0.7
    assert config["zero_optimization"] == {"stage": 2, "reduce_bucket_size": 1008, "allgather_bucket_size": 1008}
    assert make_settings(**PLAIN | {"grad_clip_norm": None})["gradient_clipping"] == 0.0


@pytest.mark.parametrize(
    ("offload", "places"),
    [
        ("none", set()),
        ("optimizer", {"offload_optimizer"}),
        ("weights_and_optimizer", {"offload_optimizer", "offload_param"}),
    ],
)
def test_offloading_says_what_lies_in_the_hosts_memory(offload: str, places: set[str]) -> None:
    zero = make_settings(**PLAIN | {"stage": 3, "offload": offload})["zero_optimization"]
    assert {name for name in zero if name.startswith("offload_")} == places


def test_what_is_passed_on_joins_what_is_generated() -> None:
    extra = {"zero_optimization": {"overlap_comm": False, "reduce_bucket_size": 64}, "steps_per_print": 7}
    assert check_extra(extra) == []
    config = make_settings(**PLAIN | {"extra": extra})
    assert config["zero_optimization"] == {
        "stage": 2, "reduce_bucket_size": 64, "allgather_bucket_size": 1008, "overlap_comm": False,
    }  # fmt: skip
    assert config["steps_per_print"] == 7


def test_deepspeed_itself_accepts_what_is_generated() -> None:
    for stage in range(4):
        accepted = DeepSpeedConfig(make_settings(**PLAIN | {"stage": stage}) | {"train_batch_size": 15})
        assert accepted.zero_optimization_stage == stage
        assert accepted.gradient_clipping == 0.7


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({"zero_optimisation": {"stage": 3}}, "is no key that DeepSpeed is given; did you mean 'zero_optimization'?"),
        ({"zero_optimization": {"stage": 3}}, "deepspeed_extra.zero_optimization.stage=3 is set by parallel.stage"),
        (
            {"zero_optimization": {"overlap_com": True}},
            "overlap_com=true .* did you mean 'zero_optimization.overlap_comm'",
        ),
        ({"zero_optimization": True}, "zero_optimization=true is not a map; write one"),
        ({"gradient_clipping": 1.0}, "is set by grad_clip_norm; set that instead"),
        ({"fp16": {"enabled": True}}, "is set by precision"),
        ({"sequence_parallel_size": 2}, "is not passed on: ZeRO 0 to 2 then leaves gradients .* take it out"),
        ({"elasticity": {}}, "has removed it; a run resumes in any topology anyway; take it out"),
        ({"steps_per_print": True}, "steps_per_print=true is not a whole number; write one"),
        ({"communication_data_type": "bf16"}, "is no key that DeepSpeed is given; "),
        ({"xyzzy": 1}, "is no key that DeepSpeed is given; name one of "),
    ],
)
def test_everything_else_is_refused(extra: dict[str, Any], told: str) -> None:
    (problem,) = check_extra(extra)
    assert problem.startswith("parallel.deepspeed_extra.")
    assert pytest.importorskip("re").search(told, problem)


def test_all_problems_are_told_together() -> None:
    assert len(check_extra({"amp": {}, "zero_optimization": {"stage": 1, "nothing": 2}, "steps_per_print": None})) == 4
