"""Energy from the counters of the hardware: NVIDIA's for a GPU, Intel's and AMD's RAPL for CPUs."""

from __future__ import annotations

import contextlib
from pathlib import Path

RAPL = Path("/sys/class/powercap")


class EnergyMeter:
    """Counts joules from its creation; without a readable counter it returns None."""

    def __init__(self, gpu: int | None, rapl: Path = RAPL) -> None:
        """
        Args:
            gpu: index of the GPU; None: all CPUs of the machine, with the energy of other processes.
            rapl: the kernel's folder of power caps; on most machines only root may read it.
        """
        self._gpu = _open_gpu(gpu) if gpu is not None else None
        self._packages = sorted(rapl.glob("intel-rapl:[0-9]*")) if gpu is None else []
        self._last = self._read_counters()
        self._joules = 0.0

    def read(self) -> float | None:
        """Return the joules so far. Call this more often than a counter wraps around, which takes minutes."""
        now = self._read_counters()
        if now is None or self._last is None:
            return None
        self._joules += sum((after - before) % wrap for (after, wrap), (before, _) in zip(now, self._last, strict=True))
        self._last = now
        return self._joules

    def _read_counters(self) -> list[tuple[float, float]] | None:
        """Return the joules of each counter, and the value at which it wraps around."""
        with contextlib.suppress(OSError, ValueError):
            if self._gpu is not None:
                import pynvml

                return [(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu) / 1e3, float("inf"))]
            counters = [
                (
                    int((package / "energy_uj").read_text(encoding="utf-8")) / 1e6,
                    int((package / "max_energy_range_uj").read_text(encoding="utf-8")) / 1e6,
                )
                for package in self._packages
                if package.name.count(":") == 1  # the counter of a package includes its parts
            ]
            return counters or None
        return None


def _open_gpu(gpu: int) -> object | None:
    """Return NVIDIA's handle of a GPU; None without its library or without an energy counter."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle: object = pynvml.nvmlDeviceGetHandleByIndex(gpu)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return None
    return handle
