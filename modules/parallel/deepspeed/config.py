"""Generates DeepSpeed's configuration from typed settings, and checks extra keys against an allow-list.

DeepSpeed ignores unknown keys: `zero_optimisation` would train without ZeRO. This module does not import torch.
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
"""Keys allowed in `deepspeed_extra`: they change speed, memory or logging, but not results."""

SET_BY_LATHE = {
    "train_batch_size": "batch_size_global",
    "train_micro_batch_size_per_gpu": "batch_size_per_device",
    "gradient_accumulation_steps": "batch_size_per_device",
    "gradient_clipping": "grad_clip_norm",
    "optimizer": "optimizer",
    "scheduler": "schedule",
    "fp16": "precision",
    "bf16": "precision",
    "torch_autocast": "precision",
    "amp": "precision",
    "checkpoint": "checkpoint",
    "activation_checkpointing": "the recompute setting of the model",
    "tensor_parallel": "parallel.model",
    "zero_optimization.stage": "parallel.stage",
    "zero_optimization.offload_param": "parallel.offload",
    "zero_optimization.offload_optimizer": "parallel.offload",
    "zero_optimization.cpu_offload": "parallel.offload",
}
"""DeepSpeed keys that Lathe sets, and the Lathe setting for each."""

ALIGNMENT = 16
"""Bucket sizes are multiples of this; DeepSpeed 0.19.8 requires multiples of 2."""

HARMFUL = {
    "sequence_parallel_size": "with it, ZeRO 0 to 2 silently ignore the gradients of the sequence ranks (0.19.8)",
    "data_parallel_size": "with it, ZeRO 0 to 2 silently ignore the gradients of the sequence ranks (0.19.8)",
    "elasticity": "DeepSpeed 0.19.8 does not have it, and Lathe can resume a run in any topology",
    "zero_allow_untested_optimizer": "Lathe checks which optimizers are correct under ZeRO",
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
    """Make the whole configuration of a DeepSpeed engine.

    Args:
        stage: ZeRO stage.
        offload: what is in host memory.
        batch_size_per_device: examples per micro-batch.
        num_accumulation: micro-batches per step.
        grad_clip_norm: maximum global norm; None: no clipping.
        num_parameters: of this rank; a bucket is not larger than this.
        extra: already checked with `check_extra`.
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
        "zero_allow_untested_optimizer": True,  # the plan refuses optimizers that are wrong on flat slices
        "zero_force_ds_cpu_optimizer": False,  # otherwise offloading allows only DeepSpeed's Adam, and compiles it
        "steps_per_print": 2**31,
    }
    for key, value in extra.items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, Mapping) else value
    return config


def check_extra(extra: Mapping[str, Any]) -> list[str]:
    """List all problems of `deepspeed_extra`: unknown keys, keys that Lathe sets, harmful keys, wrong types."""
    problems: list[str] = []
    for key, value in extra.items():
        known = EXTRA.get(key)
        if isinstance(known, dict) and isinstance(value, Mapping):
            for inner, inner_value in value.items():
                problems += _find_problem(
                    f"{key}.{inner}", inner_value, known.get(inner), [f"{key}.{name}" for name in known]
                )
        else:
            problems += _find_problem(key, value, known, list(EXTRA))
    return problems


def _find_problem(key: str, value: Any, known: type | dict[str, type] | None, names: list[str]) -> list[str]:
    setting = f"parallel.deepspeed_extra.{key}={str(value).lower() if isinstance(value, bool) else value}"
    if key in SET_BY_LATHE:
        return [f"{setting} is set by {SET_BY_LATHE[key]}; set that instead"]
    if key in HARMFUL:
        return [f"{setting} is not allowed: {HARMFUL[key]}; remove it"]
    if known is None:
        close = get_close_matches(key, names, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"use one of {', '.join(sorted(names))}"
        return [f"{setting} is not an allowed key; {hint}"]
    expected = dict if isinstance(known, dict) else known
    if type(value) is expected or (expected is float and type(value) is int):
        return []
    kind = {int: "a whole number", float: "a number", bool: "true or false", str: "text", list: "a list", dict: "a map"}
    return [f"{setting} is not {kind[expected]}; write one"]
