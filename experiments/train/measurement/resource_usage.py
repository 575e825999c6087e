"""Resource metrics of a run: time to the first step, MFU, cores, memory, device-hours, energy."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence

import psutil
import torch

from experiments.run.history import PreviousAttempts
from experiments.train.measurement.energy import EnergyMeter


class ResourceUsage:
    """Measures one rank; rank 0 logs the totals over all ranks."""

    def __init__(
        self, every_s: float | None, num_devices: int, flops_per_step: float | None, peak_flops_per_s: float | None,
        previous: PreviousAttempts, first_step: int, *, on_gpu: bool, covers_all_processes: bool = True,
    ) -> None:  # fmt: skip
        """
        Args:
            every_s: seconds between two samples of the process and its GPU; None: no samples.
            num_devices: devices of the whole training.
            flops_per_step: FLOPs of one update over all devices; None: not counted.
            peak_flops_per_s: peak of one device; None: not stated.
            previous: totals of previous attempts.
            first_step: steps that were done before.
            on_gpu: whether this rank trains on a GPU.
            covers_all_processes: False if other processes train too; CPU time and energy then have no totals.
        """
        self.every_s, self.num_devices, self.previous, self.first_step = every_s, num_devices, previous, first_step
        self.covers_all_processes = covers_all_processes
        has_peak = flops_per_step is not None and peak_flops_per_s is not None
        self._ideal_step_s = flops_per_step / (peak_flops_per_s * num_devices) if has_peak else None  # type: ignore[operator]
        self._process = psutil.Process()
        self._started_at = self._process.create_time()
        self._gpu = torch.cuda.current_device() if on_gpu else None
        self._meter = EnergyMeter(self._gpu)
        self._sampled_at = time.monotonic()
        self._cpu_s = self._read_cpu_s()
        self._logged_step: int | None = None

    def step_metrics(self, done: int, step_time_s: float) -> dict[str, float]:
        """Return further metrics for a logged training step."""
        metrics = {} if self._ideal_step_s is None else {"perf/mfu": self._ideal_step_s / step_time_s}
        if done == self.first_step + 1:
            metrics["perf/time_to_first_step_s"] = time.time() - self._started_at
        return metrics | self._sample()

    def total_metrics(self, done: int, gather: Callable[[float], Sequence[float]]) -> dict[str, float]:
        """Return the cost of the run so far, over all devices and attempts, and the peak memory.

        {} for a step already logged, as a step of a metric has one point. All ranks call it.
        """
        if done == self._logged_step:
            return {}
        self._logged_step = done
        hours = (time.time() - self._started_at) / 3600
        metrics = {"cost/device_h": self.previous.device_h + hours * self.num_devices}
        if self.covers_all_processes:
            joules = self._meter.read() if self._gpu is not None or self.num_devices == 1 else None
            every = gather(-1.0 if joules is None else joules)
            if min(every) >= 0:
                metrics["cost/energy_wh"] = self.previous.energy_wh + sum(every) / 3600
            metrics["cost/cpu_s"] = self.previous.cpu_s + sum(gather(self._read_cpu_s()))
        metrics["cost/wasted_steps"] = float(self.previous.wasted_steps + max(0, self.previous.step - self.first_step))
        return metrics | make_memory_metrics(gather(read_memory_peak_gib()))

    def _sample(self) -> dict[str, float]:
        """Return cores and memory of this process, and use of its GPU; {} if the last sample is recent."""
        now = time.monotonic()
        if self.every_s is None or now - self._sampled_at < self.every_s:
            return {}
        cpu_s = self._read_cpu_s()
        metrics = {
            "system/cpu_cores_used": (cpu_s - self._cpu_s) / (now - self._sampled_at),
            "system/memory_gib": self._process.memory_info().rss / 2**30,
        }
        self._sampled_at, self._cpu_s = now, cpu_s
        self._meter.read()  # before the counters wrap around
        return metrics | (_read_gpu_metrics(self._gpu) if self._gpu is not None else {})

    def _read_cpu_s(self) -> float:
        """Return the CPU time of this process and its ended children."""
        times = self._process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)


def _read_gpu_metrics(gpu: int) -> dict[str, float]:
    free, total = torch.cuda.mem_get_info(gpu)
    metrics = {"system/gpu_memory_gib": (total - free) / 2**30}
    try:
        metrics["system/gpu_percent"] = float(torch.cuda.utilization(gpu))
        metrics["system/gpu_power_w"] = torch.cuda.power_draw(gpu) / 1e3
    except (ModuleNotFoundError, RuntimeError):  # no NVIDIA library for Python, or no such counter
        pass
    return metrics


BYTES_PER_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # Linux counts ru_maxrss in KiB, macOS in bytes


def read_memory_peak_gib() -> float:
    """Return the peak memory of this process: on the GPU if it trains on one, else on the machine."""
    if torch.cuda.is_available() and (allocated := torch.cuda.max_memory_allocated()):
        return allocated / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_RSS_UNIT / 2**30


def make_memory_metrics(gib: Sequence[float]) -> dict[str, float]:
    """Return the highest peak of all ranks, and with several ranks also each rank's peak."""
    each = {f"perf/rank_{rank}_memory_peak_gib": value for rank, value in enumerate(gib)} if len(gib) > 1 else {}
    return {"perf/memory_peak_gib": max(gib), **each}
