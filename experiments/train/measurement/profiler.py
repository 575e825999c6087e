"""Profiles a training: a trace of a few steps on every rank, and DeepSpeed's count of the model's FLOPs."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import profile

from modules.data.base import Tensors

NUM_WARMUP = 3
"""Steps before the trace, for allocators and connections to warm up."""
NUM_TRACED = 3
TRACE = "trace_rank_{rank}.json.gz"
FLOPS_TABLE = "work.txt"


class Profiler:
    """Traces a few steps of one rank; without a folder it does nothing."""

    def __init__(self, folder: Path | None, rank: int, first_step: int) -> None:
        """
        Args:
            folder: gets the traces; None: no trace.
            rank: number of this rank.
            first_step: of the training.
        """
        self.folder, self.rank = folder, rank
        self.begin = first_step + NUM_WARMUP
        self._profile: profile | None = None

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Return a context for one step."""
        if self.folder is not None and step == self.begin:
            self._profile = profile()
            self._profile.start()
        with torch.profiler.record_function("step") if self._profile is not None else contextlib.nullcontext():
            yield

    def finish_trace(self, step: int) -> dict[str, float] | None:
        """After the last traced step write the trace, and return the milliseconds of a step; otherwise return None."""
        if self._profile is None or self.folder is None or step < self.begin + NUM_TRACED - 1:
            return None
        traced, self._profile = self._profile, None
        traced.stop()
        self.folder.mkdir(exist_ok=True)
        traced.export_chrome_trace(str(self.folder / TRACE.format(rank=self.rank)))
        return sum_milliseconds(traced.events())  # type: ignore[no-untyped-call]  # torch 2.13 leaves it without types

    def close(self) -> None:
        """End a trace that a short training did not complete."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None


def sum_milliseconds(events: Iterable[FunctionEvent]) -> dict[str, float]:
    """Return the mean time of a step, of its computation and of its communication; the last two may overlap.

    On a GPU these are the times of kernels, on a CPU those of operators. Waiting for another rank is communication.
    """
    events = list(events)
    on_gpu = any(_is_kernel(event) for event in events)
    steps = [event for event in events if event.name == "step" and event.device_type.name != "CUDA"]
    compute, communication = list[tuple[float, float]](), list[tuple[float, float]]()
    for event in events:
        span = (event.time_range.start, event.time_range.end)
        is_kernel = _is_kernel(event)
        if event.name.startswith("gloo:") or (is_kernel and "nccl" in event.name.lower()):
            communication.append(span)
        elif is_kernel if on_gpu else event.name.startswith("aten::"):
            compute.append(span)
    count = max(len(steps), 1) * 1e3
    return {
        "step": sum(event.time_range.end - event.time_range.start for event in steps) / count,
        "compute": _union_length(compute) / count,
        "communication": _union_length(communication) / count,
    }


def _is_kernel(event: FunctionEvent) -> bool:
    """Return whether an event is a GPU kernel, not a user annotation on the device's timeline."""
    return bool(event.device_type.name == "CUDA" and not getattr(event, "is_user_annotation", False))


def make_profile_metrics(ranks: Mapping[str, Sequence[float]], num_stages: int) -> dict[str, float]:
    """Return the metrics of a step: means over the ranks, and each rank's computation and communication.

    Args:
        ranks: milliseconds from `sum_milliseconds`, by name, one number per rank.
        num_stages: stages of the pipeline; its bubble is the time in which stages do not compute.
    """
    metrics = {f"perf/profiled_{name}_ms": sum(each) / len(each) for name, each in ranks.items()}
    for name in ("compute", "communication") if len(ranks["step"]) > 1 else ():
        metrics |= {f"perf/rank_{rank}_profiled_{name}_ms": value for rank, value in enumerate(ranks[name])}
    if num_stages > 1:
        metrics["perf/bubble_fraction"] = 1 - metrics["perf/profiled_compute_ms"] / metrics["perf/profiled_step_ms"]
    return metrics


def _union_length(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union of spans."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def count_flops(model: nn.Module, inputs: Tensors, folder: Path) -> dict[str, int]:
    """Count a forward pass with DeepSpeed: write a table by module, return FLOPs (2 per multiply-add) and parameters.

    Args:
        model: the whole model, on the CPU.
        inputs: one micro-batch.
        folder: gets the table.
    """
    os.environ.setdefault(
        "DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu"
    )  # else DeepSpeed prints its search
    from deepspeed.profiling.flops_profiler import FlopsProfiler

    counted = copy.deepcopy(model)  # a forward pass may change buffers
    counter = FlopsProfiler(counted)
    counter.start_profile()
    try:
        with torch.no_grad():
            counted(inputs)
        counter.stop_profile()
        folder.mkdir(exist_ok=True)
        counter.print_model_profile(profile_step=0, output_file=str(folder / FLOPS_TABLE))
        flops, parameters = counter.get_total_flops(), counter.get_total_params()
    finally:  # remove the functions that it patched into torch
        counter.end_profile()
    return {"profile.forward_flops": int(flops), "profile.num_parameters": int(parameters)}
