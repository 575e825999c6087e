"""DeepSpeed's configuration, generated from typed settings; what is passed on besides is held against a closed set.

DeepSpeed itself ignores a key that it does not know: `zero_optimisation` would train without ZeRO. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal

from modules.parallel.topology import Offload

Stage = Literal[0, 1, 2, 3]

EXTRA: dict[str, type | dict[str, type]] = {
    "zero_optimization": {
        "allgather_bucket_size": int,
        "allgather_partitions": bool,
        "contiguous_gradients": bool,
        "overlap_comm": bool,
        "reduce_bucket_size": int,
        "reduce_scatter": bool,
        "round_robin_gradients": bool,
        "stage3_max_live_parameters": int,
        "stage3_max_reuse_distance": int,
        "stage3_param_persistence_threshold": int,
        "stage3_prefetch_bucket_size": int,
        "sub_group_size": int,
    },
    "comms_logger": {"debug": bool, "enabled": bool, "prof_all": bool, "prof_ops": list, "verbose": bool},
    "memory_breakdown": bool,
    "steps_per_print": int,
    "wall_clock_breakdown": bool,
}
"""What `deepspeed_extra` may hold: keys that change speed or memory or print more, and no result."""

ELSEWHERE = {
    "train_batch_size": "batch_size_global",
    "train_micro_batch_size_per_gpu": "batch_size_per_device",
    "gradient_accumulation_steps": "batch_size_per_device, from which it follows",
    "gradient_clipping": "grad_clip_norm",
    "optimizer": "optimizer",
    "scheduler": "schedule",
    "fp16": "precision",
    "bf16": "precision",
    "torch_autocast": "precision",
    "amp": "precision",
    "checkpoint": "checkpoint",
    "activation_checkpointing": "the model's recompute",
    "tensor_parallel": "parallel.model",
    "zero_optimization.stage": "parallel.stage",
    "zero_optimization.offload_param": "parallel.offload",
    "zero_optimization.offload_optimizer": "parallel.offload",
    "zero_optimization.cpu_offload": "parallel.offload",
}
"""Keys of DeepSpeed that Lathe sets itself, and by what."""

ALIGNMENT = 16
"""Numbers by which bucket sizes have to divide; DeepSpeed 0.19.8 asks for 2."""

HARMFUL = {
    "sequence_parallel_size": "ZeRO 0 to 2 then leaves gradients of the sequence ranks out, without a word (0.19.8)",
    "data_parallel_size": "ZeRO 0 to 2 then leaves gradients of the sequence ranks out, without a word (0.19.8)",
    "elasticity": "DeepSpeed 0.19.8 has removed it; a run resumes in any topology anyway",
    "zero_allow_untested_optimizer": "the plan already knows which optimizers are right under ZeRO",
}


def make_settings(
    *,
    stage: Stage,
    offload: Offload,
    batch_size_per_device: int,
    num_accumulation: int,
    grad_clip_norm: float | None,
    num_parameters: int,
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole configuration of one engine.

    Args:
        stage: of ZeRO.
        offload: what lies in the host's memory.
        batch_size_per_device: examples of a micro-batch.
        num_accumulation: micro-batches of a step.
        grad_clip_norm: largest global norm; None: not clipped.
        num_parameters: of this rank; no bucket is made larger than that.
        extra: checked by `check_extra`.
    """
    bucket_size = min(500_000_000, -(-max(num_parameters, 1) // ALIGNMENT) * ALIGNMENT)
    zero: dict[str, Any] = {"stage": stage, "reduce_bucket_size": bucket_size, "allgather_bucket_size": bucket_size}
    if offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if offload == "weights_and_optimizer":
        zero["offload_param"] = {"device": "cpu"}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": batch_size_per_device,
        "gradient_accumulation_steps": num_accumulation,
        "gradient_clipping": grad_clip_norm or 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # the plan refuses those that are wrong on flat slices
        "zero_force_ds_cpu_optimizer": False,  # else offloading takes DeepSpeed's own Adam alone, and compiles it
        "steps_per_print": 2**31,
    }
    for key, value in extra.items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, Mapping) else value
    return config


def check_extra(extra: Mapping[str, Any]) -> list[str]:
    """Every problem of a `deepspeed_extra` map: keys that are unknown, set elsewhere or harmful, values of a wrong type."""
    problems: list[str] = []
    for key, value in extra.items():
        known = EXTRA.get(key)
        if isinstance(known, dict) and isinstance(value, Mapping):
            for inner, each in value.items():
                problems += _problem(f"{key}.{inner}", each, known.get(inner), [f"{key}.{name}" for name in known])
        else:
            problems += _problem(key, value, known, list(EXTRA))
    return problems


def _problem(key: str, value: Any, known: type | dict[str, type] | None, names: list[str]) -> list[str]:
    told = f"parallel.deepspeed_extra.{key}={str(value).lower() if isinstance(value, bool) else value}"
    if key in ELSEWHERE:
        return [f"{told} is set by {ELSEWHERE[key]}; set that instead"]
    if key in HARMFUL:
        return [f"{told} is not passed on: {HARMFUL[key]}; take it out"]
    if known is None:
        close = get_close_matches(key, names, n=1)
        way_out = f"did you mean '{close[0]}'?" if close else f"name one of {', '.join(sorted(names))}"
        return [f"{told} is no key that DeepSpeed is given; {way_out}"]
    wanted = dict if isinstance(known, dict) else known
    if type(value) is wanted or (wanted is float and type(value) is int):
        return []
    kind = {int: "a whole number", float: "a number", bool: "true or false", str: "text", list: "a list", dict: "a map"}
    return [f"{told} is not {kind[wanted]}; write one"]
