"""What a step spends its time on: a trace of a few steps on every rank, and DeepSpeed's count of the model's work."""

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

NUM_BEFORE = 3
"""Steps before the trace, in which allocators and connections warm up."""
NUM_TRACED = 3
TRACE = "trace_rank_{rank}.json.gz"
WORK = "work.txt"


class Profiler:
    """Traces a few steps of one rank where that was asked for, and else does nothing."""

    def __init__(self, folder: Path | None, rank: int, first_step: int) -> None:
        """
        Args:
            folder: gets the traces; None: nothing is traced.
            rank: whose trace it is.
            first_step: the training's.
        """
        self.folder, self.rank = folder, rank
        self.begin = first_step + NUM_BEFORE
        self._profile: profile | None = None

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Around one step."""
        if self.folder is not None and step == self.begin:
            self._profile = profile()
            self._profile.start()
        with torch.profiler.record_function("step") if self._profile is not None else contextlib.nullcontext():
            yield

    def result(self, step: int) -> dict[str, float] | None:
        """After the last traced step: writes the trace, and tells milliseconds of one step; before and later None."""
        if self._profile is None or self.folder is None or step < self.begin + NUM_TRACED - 1:
            return None
        traced, self._profile = self._profile, None
        traced.stop()
        self.folder.mkdir(exist_ok=True)
        traced.export_chrome_trace(str(self.folder / TRACE.format(rank=self.rank)))
        return milliseconds(traced.events())  # type: ignore[no-untyped-call]  # torch 2.13 leaves it without types

    def close(self) -> None:
        """End a trace that a short training did not fill."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None


def milliseconds(events: Iterable[FunctionEvent]) -> dict[str, float]:
    """How long a step took, computed and communicated, in the mean over those in a trace; the last two may overlap.

    On a GPU kernels count, on a CPU operators; waiting for another rank counts as communication.
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
        "compute": _covered(compute) / count,
        "communication": _covered(communication) / count,
    }


def _is_kernel(event: FunctionEvent) -> bool:
    """Not a range that somebody marked, which the device's timeline shows too."""
    return bool(event.device_type.name == "CUDA" and not getattr(event, "is_user_annotation", False))


def profile_metrics(ranks: Mapping[str, Sequence[float]], num_stages: int) -> dict[str, float]:
    """Metrics of one step from the milliseconds of every rank: means, and of compute and communication each rank's.

    Args:
        ranks: what `milliseconds` gave, by name, one number a rank.
        num_stages: of a pipeline, whose bubble is the time in which stages do not compute.
    """
    metrics = {f"perf/profiled_{name}_ms": sum(each) / len(each) for name, each in ranks.items()}
    for name in ("compute", "communication") if len(ranks["step"]) > 1 else ():
        metrics |= {f"perf/rank_{rank}_profiled_{name}_ms": value for rank, value in enumerate(ranks[name])}
    if num_stages > 1:
        metrics["perf/bubble_fraction"] = 1 - metrics["perf/profiled_compute_ms"] / metrics["perf/profiled_step_ms"]
    return metrics


def _covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of spans."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def count_work(model: nn.Module, inputs: Tensors, folder: Path) -> dict[str, int]:
    """DeepSpeed's count of a forward pass, module by module, into a file; FLOPs (a multiply-add counts two) and parameters.

    Args:
        model: whole, on the CPU.
        inputs: one micro-batch.
        folder: gets the table.
    """
    os.environ.setdefault(
        "DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu"
    )  # it would else search aloud
    from deepspeed.profiling.flops_profiler import FlopsProfiler

    counted = copy.deepcopy(model)  # whose buffers may change
    counter = FlopsProfiler(counted)
    counter.start_profile()
    try:
        with torch.no_grad():
            counted(inputs)
        counter.stop_profile()
        folder.mkdir(exist_ok=True)
        counter.print_model_profile(profile_step=0, output_file=str(folder / WORK))
        work, parameters = counter.get_total_flops(), counter.get_total_params()
    finally:  # it has put its own functions into torch
        counter.end_profile()
    return {"profile.forward_flops": int(work), "profile.num_parameters": int(parameters)}
