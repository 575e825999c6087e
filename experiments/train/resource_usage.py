"""What a run takes of its machine: time to its first step, share of the peak, cores, memory, device-hours, energy."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence

import psutil
import torch

from experiments.run.history import PreviousAttempts
from experiments.train.energy import Meter


class Usage:
    """That of one rank; what is summed over all is told by the first."""

    def __init__(
        self, every_s: float | None, num_devices: int, flops_per_step: float | None, peak_flops_per_s: float | None,
        earlier: PreviousAttempts, first_step: int, *, on_gpu: bool, sees_all: bool = True,
    ) -> None:  # fmt: skip
        """
        Args:
            every_s: seconds between two looks at the process and its GPU; None: no look.
            num_devices: of the whole training.
            flops_per_step: of one update over all devices; None: not counted.
            peak_flops_per_s: of one device; None: not stated.
            earlier: what earlier attempts have used.
            first_step: steps that were done before.
            on_gpu: whether this rank trains on a GPU.
            sees_all: whether nothing trains but the processes of the ranks; else cores and energy are not told in all.
        """
        self.every_s, self.num_devices, self.earlier, self.first_step = every_s, num_devices, earlier, first_step
        self.sees_all = sees_all
        has_share = flops_per_step is not None and peak_flops_per_s is not None
        self._share_s = flops_per_step / (peak_flops_per_s * num_devices) if has_share else None  # type: ignore[operator]
        self._process = psutil.Process()
        self._began = self._process.create_time()
        self._gpu = torch.cuda.current_device() if on_gpu else None
        self._meter = Meter(self._gpu)
        self._looked = time.monotonic()
        self._cpu_s = self._used_s()
        self._told_at: int | None = None

    def of_step(self, done: int, step_time_s: float) -> dict[str, float]:
        """Metrics beside a point of the training curve."""
        found = {} if self._share_s is None else {"perf/mfu": self._share_s / step_time_s}
        if done == self.first_step + 1:
            found["perf/time_to_first_step_s"] = time.time() - self._began
        return found | self._look()

    def totals(self, done: int, gather: Callable[[float], Sequence[float]]) -> dict[str, float]:
        """What the run has cost so far, over all devices and attempts; every rank calls it, once a step at most."""
        if done == self._told_at:
            return {}
        self._told_at = done
        hours = (time.time() - self._began) / 3600
        found = {"cost/device_h": self.earlier.device_h + hours * self.num_devices}
        if self.sees_all:
            joules = self._meter.read() if self._gpu is not None or self.num_devices == 1 else None
            every = gather(-1.0 if joules is None else joules)
            if min(every) >= 0:
                found["cost/energy_wh"] = self.earlier.energy_wh + sum(every) / 3600
            found["cost/cpu_s"] = self.earlier.cpu_s + sum(gather(self._used_s()))
        found["cost/wasted_steps"] = float(self.earlier.wasted_steps + max(0, self.earlier.step - self.first_step))
        return found

    def _look(self) -> dict[str, float]:
        """Cores and memory of this process, and how busy its GPU is; nothing where the last look was a moment ago."""
        now = time.monotonic()
        if self.every_s is None or now - self._looked < self.every_s:
            return {}
        used_s = self._used_s()
        found = {
            "system/cpu_cores_used": (used_s - self._cpu_s) / (now - self._looked),
            "system/memory_gib": self._process.memory_info().rss / 2**30,
        }
        self._looked, self._cpu_s = now, used_s
        self._meter.read()  # counters run over
        return found | (_of_gpu(self._gpu) if self._gpu is not None else {})

    def _used_s(self) -> float:
        """Seconds of a core that this process and its ended children have taken."""
        times = self._process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)


def _of_gpu(gpu: int) -> dict[str, float]:
    free, total = torch.cuda.mem_get_info(gpu)
    found = {"system/gpu_memory_gib": (total - free) / 2**30}
    try:
        found["system/gpu_percent"] = float(torch.cuda.utilization(gpu))
        found["system/gpu_power_w"] = torch.cuda.power_draw(gpu) / 1e3
    except (ModuleNotFoundError, RuntimeError):  # without NVIDIA's library for Python, or a card that does not tell
        pass
    return found


BYTES_OF_RSS = 1 if sys.platform == "darwin" else 1024  # Linux counts ru_maxrss in KiB, macOS in bytes


def memory_peak_gib() -> float:
    """The most this process has held so far: of the GPU's memory where it trains on one, else of the machine's."""
    if torch.cuda.is_available() and (allocated := torch.cuda.max_memory_allocated()):
        return allocated / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_OF_RSS / 2**30


def memory_peaks(gib: Sequence[float]) -> dict[str, float]:
    """Metrics of one peak a rank: the highest, and where there are several ranks each."""
    each = {f"perf/rank_{rank}_memory_peak_gib": value for rank, value in enumerate(gib)} if len(gib) > 1 else {}
    return {"perf/memory_peak_gib": max(gib), **each}
