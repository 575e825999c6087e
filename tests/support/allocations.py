"""Measures what torch's CPU allocator allocates on a rank during training, with torch's profiler."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from modules.data.base import Batch
from modules.model.gpt import Gpt
from modules.model.mlp import Mlp
from modules.objective.cross_entropy import CrossEntropy
from modules.parallel.base import EngineConfig, Rank, TrainingSetup
from modules.schedule.constant import Constant
from tests.support.engines import Mode, Task

NUM_STEPS = 5
STEP = "a step"
CONTEXT_TOKENS, NUM_WORDS = 32, 256


@dataclass(frozen=True)
class Allocated:
    """Bytes of one rank in a step, without the first step."""

    peak_bytes: int
    """Peak."""
    rest_bytes: int
    """Between two steps."""


def make_model(name: str) -> nn.Module:
    """Models with both large weights and large activations, so that an error in either shows."""
    if name == "mlp":
        return Mlp(num_features=200, num_classes=16, hidden_sizes=[600, 400, 600], dropout_prob=0.1)
    return Gpt(
        vocab_size=NUM_WORDS,
        context_tokens=CONTEXT_TOKENS,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        hidden_size=128,
        ff_size=320,
        tie_embeddings=name == "gpt_tied",
        dropout_prob=0.0,
        recompute=name == "gpt_recompute",
    )


def make_batch(name: str, size: int) -> Batch:
    if name == "mlp":
        return torch.zeros(size, 200), torch.zeros(size, dtype=torch.int64)
    token_ids = torch.zeros(size, CONTEXT_TOKENS + 1, dtype=torch.int64)
    return token_ids[:, :-1].contiguous(), token_ids[:, 1:].contiguous()


def make_config(mode: Mode, task: Task, batch_size_per_device: int, rank: Rank) -> EngineConfig:
    return EngineConfig(
        num_steps=NUM_STEPS,
        num_accumulation=task.num_accumulation,
        grad_clip_norm=task.grad_clip_norm,
        precision=task.precision,
        compile=False,
        device="cpu",
        batch_size_per_device=batch_size_per_device,
        topology=mode.topology,
        rank=rank,
    )


def measure_allocations(rank: Rank, mode: Mode, task: Task, batch_size_per_device: int) -> Allocated:
    """Train, and measure the bytes that are allocated and not freed, including the model."""
    _wait_for_collectives()
    engine = mode.engine()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        setup = TrainingSetup(make_model(task.model), CrossEntropy(), task.optimizer, Constant())
        engine.prepare(setup, make_config(mode, task, batch_size_per_device, rank))
        batch = make_batch(task.model, batch_size_per_device * task.num_accumulation)
        for step in range(NUM_STEPS):
            with record_function(STEP):
                engine.train_step(batch, step)
        engine.gather(0.0)
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    allocations: list[tuple[int, int]] = []
    spans: list[tuple[int, int]] = []
    tree = list(profiler.profiler.kineto_results.experimental_event_tree())
    while tree:
        event = tree.pop()
        tree += event.children
        if event.name == "[memory]":
            allocations.append((event.start_time_ns, event.extra_fields.total_allocated))
        elif event.name == STEP:
            spans.append((event.start_time_ns, event.end_time_ns))
    return _find_smallest(sorted(allocations), sorted(spans)[1:])


def _wait_for_collectives() -> None:
    """Wait after every collective: the profiler does not see tensors that are freed on gloo's thread."""
    for name in ("all_reduce", "all_gather", "all_gather_into_tensor", "reduce_scatter_tensor", "broadcast", "reduce"):
        setattr(dist, name, _add_wait(getattr(dist, name)))


def _add_wait(collective: Callable[..., Any]) -> Callable[..., Any]:
    def call_and_wait(*args: Any, **kwargs: Any) -> Any:
        work = collective(*args, **kwargs)
        if work is not None:  # an asynchronous collective
            work.wait()
        time.sleep(2e-3)
        return work

    return call_and_wait


def _find_smallest(allocations: list[tuple[int, int]], spans: list[tuple[int, int]]) -> Allocated:
    """Take the step with the lowest peak, because the profiler misses what other threads free.

    Args:
        allocations: time and allocated bytes at that time, in order.
        spans: start and end of each step.
    """
    begins = [max((time, size) for time, size in allocations if time < begin)[1] for begin, _ in spans]
    peaks = [max(size for time, size in allocations if begin <= time <= end) for begin, end in spans]
    rest = min(begins)
    return Allocated(min(peak - begin + rest for peak, begin in zip(peaks, begins, strict=True)), rest)
