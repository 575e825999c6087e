"""Energy that a device's own counter tells: NVIDIA's of a GPU, Intel's and AMD's RAPL of a CPU."""

from __future__ import annotations

import contextlib
from pathlib import Path

RAPL = Path("/sys/class/powercap")


class Meter:
    """Joules since it was made; None where no counter can be read."""

    def __init__(self, gpu: int | None, rapl: Path = RAPL) -> None:
        """
        Args:
            gpu: index of the GPU that is used; None: the machine's CPUs, whoever else uses them.
            rapl: folder of the kernel's power caps; only root may read them on most machines.
        """
        self._gpu = _handle(gpu) if gpu is not None else None
        self._packages = sorted(rapl.glob("intel-rapl:[0-9]*")) if gpu is None else []
        self._last = self._counters()
        self._joules = 0.0

    def read(self) -> float | None:
        """Joules so far; to be read more often than a counter runs over, which takes minutes."""
        now = self._counters()
        if now is None or self._last is None:
            return None
        self._joules += sum((after - before) % wrap for (after, wrap), (before, _) in zip(now, self._last, strict=True))
        self._last = now
        return self._joules

    def _counters(self) -> list[tuple[float, float]] | None:
        """Joules of each counter, and where it begins anew."""
        with contextlib.suppress(OSError, ValueError):
            if self._gpu is not None:
                import pynvml

                return [(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu) / 1e3, float("inf"))]
            found = [
                (int((place / "energy_uj").read_text()) / 1e6, int((place / "max_energy_range_uj").read_text()) / 1e6)
                for place in self._packages
                if place.name.count(":") == 1  # what a package consists of is counted in it
            ]
            return found or None
        return None


def _handle(gpu: int) -> object | None:
    """NVIDIA's name for a GPU; None without its library or where the card does not count."""
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
