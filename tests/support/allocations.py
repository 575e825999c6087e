"""What torch's CPU allocator really hands out to a rank while it trains, as torch's own profiler saw it."""

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
from modules.parallel.base import EngineConfig, Rank, TrainingTask
from modules.schedule.constant import Constant
from tests.support.engines import Mode, Task

NUM_STEPS = 5
STEP = "a step"
CONTEXT_TOKENS, NUM_WORDS = 32, 256


@dataclass(frozen=True)
class Allocated:
    """Bytes of one rank in a step, the first one apart."""

    peak_bytes: int
    """At the fullest moment."""
    rest_bytes: int
    """Between two."""


def model_of(name: str) -> nn.Module:
    """Models whose weights and activations are both so large that neither can be forgotten."""
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


def batch_of(name: str, size: int) -> Batch:
    if name == "mlp":
        return torch.zeros(size, 200), torch.zeros(size, dtype=torch.int64)
    words = torch.zeros(size, CONTEXT_TOKENS + 1, dtype=torch.int64)
    return words[:, :-1].contiguous(), words[:, 1:].contiguous()


def recipe_of(mode: Mode, task: Task, batch_size_per_device: int, rank: Rank) -> EngineConfig:
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


def allocated(rank: Rank, mode: Mode, task: Task, batch_size_per_device: int) -> Allocated:
    """Train, and add up all that was allocated since before the model was built, less what was freed."""
    _let_threads_forget()
    engine = mode.engine()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        training_task = TrainingTask(model_of(task.model), CrossEntropy(), task.optimizer, Constant())
        engine.prepare(training_task, recipe_of(mode, task, batch_size_per_device, rank))
        batch = batch_of(task.model, batch_size_per_device * task.num_accumulation)
        for step in range(NUM_STEPS):
            with record_function(STEP):
                engine.train_step(batch, step)
        engine.gather(0.0)
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    found: list[tuple[int, int]] = []
    spans: list[tuple[int, int]] = []
    tree = list(profiler.profiler.kineto_results.experimental_event_tree())
    while tree:
        event = tree.pop()
        tree += event.children
        if event.name == "[memory]":
            found.append((event.start_time_ns, event.extra_fields.total_allocated))
        elif event.name == STEP:
            spans.append((event.start_time_ns, event.end_time_ns))
    return _smallest(sorted(found), sorted(spans)[1:])


def _let_threads_forget() -> None:
    """Wait after every exchange: a tensor that gloo's thread is the last to know is freed unseen by the profiler."""
    for name in ("all_reduce", "all_gather", "all_gather_into_tensor", "reduce_scatter_tensor", "broadcast", "reduce"):
        setattr(dist, name, _then_wait(getattr(dist, name)))


def _then_wait(exchange: Callable[..., Any]) -> Callable[..., Any]:
    def exchange_and_wait(*args: Any, **kwargs: Any) -> Any:
        work = exchange(*args, **kwargs)
        if work is not None:  # one that was to be waited for later
            work.wait()
        time.sleep(2e-3)
        return work

    return exchange_and_wait


def _smallest(held: list[tuple[int, int]], spans: list[tuple[int, int]]) -> Allocated:
    """Of several steps the one that seems to hold least: what another thread frees all the same, the profiler misses.

    Args:
        held: time and bytes that are allocated then, in order.
        spans: begin and end of every step.
    """
    begins = [max((time, size) for time, size in held if time < begin)[1] for begin, _ in spans]
    peaks = [max(size for time, size in held if begin <= time <= end) for begin, end in spans]
    rest = min(begins)
    return Allocated(min(peak - begin + rest for peak, begin in zip(peaks, begins, strict=True)), rest)
